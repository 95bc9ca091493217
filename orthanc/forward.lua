-- Forwards every stable series to dicom-ai-node: one association per series, never a result, never in a loop.
--
-- Orthanc says that a series is stable when nothing has arrived for StableAge seconds.  It says so again when slices
-- come late; they are then all sent again, and the node keeps what is new.
--
-- Not forwarded:
--   * objects that say something about images (segmentations, reports, documents, key objects, presentation states);
--   * what our own product made (Manufacturer's Model Name), whichever way it came: the node returns its results by
--     STOW-RS, and so may others send images, hence the way alone says nothing;
--   * what the node itself passed on by C-STORE: it has it already.
-- Every value may be absent (nil): an error in Lua would lose the callback.

local configuration = GetOrthancConfiguration()['AiNode'] or {}
local target = configuration['Modality'] or 'ainode'
local nodeAet = configuration['AeTitle'] or 'AINODE'
local product = 'dicom-ai-node'  -- the node writes it into (0008,1090) of every result

local resultModalities = {
  SEG = true, SR = true, DOC = true, KO = true, PR = true, RWV = true, RTSTRUCT = true
}  -- not OT: photographs are filed under it too, as secondary captures; our own are known by our product's name

local function isToBeForwarded(instance)
  local ok, metadata = pcall(function()
    return ParseJson(RestApiGet('/instances/' .. instance .. '/metadata?expand', false))
  end)
  if not ok or type(metadata) ~= 'table' then
    return true  -- when in doubt the node decides: it knows its own results
  end
  return metadata['RemoteAET'] ~= nodeAet
end

local function isOurs(instance)
  local ok, model = pcall(function()
    return RestApiGet('/instances/' .. instance .. '/content/0008-1090', false)
  end)
  -- the value as stored, perhaps padded to an even length
  return ok and type(model) == 'string' and model:sub(1, #product) == product and #model <= #product + 1
end

function OnStableSeries(seriesId, tags, metadata)
  local modality = tags and tags['Modality'] or ''
  if resultModalities[modality] then
    return
  end
  local ok, series = pcall(function() return ParseJson(RestApiGet('/series/' .. seriesId, false)) end)
  if not ok or type(series) ~= 'table' or type(series['Instances']) ~= 'table' then
    return
  end
  if series['Instances'][1] and isOurs(series['Instances'][1]) then
    return
  end
  local resources = {}
  for _, instance in ipairs(series['Instances']) do
    if isToBeForwarded(instance) then
      table.insert(resources, instance)
    end
  end
  if #resources == 0 then
    return
  end
  RestApiPost(
    '/modalities/' .. target .. '/store',
    DumpJson({ Resources = resources, Synchronous = false, StorageCommitment = false }, false),
    false
  )
end
