"""What a reader must be told beside the numbers: one list for the structured report and for the page."""

from __future__ import annotations

from dicom_node.results import text
from dicom_node.results.objects import Job
from dicom_node.results.phrases import words
from dicom_node.words import Grade


def warnings_of(job: Job, volume_notes: tuple[str, ...], language: str) -> list[str]:
    """What stands first on the page: a replaced result, what was wrong with the input or done to it."""
    say = words(language)
    found = []
    if job.identity.predecessor is not None:
        found.append(say["replaces"].format(n=job.identity.revision_number))
    found += [text.plain(note) for note in volume_notes]
    if job.identity.grade in (Grade.WEAK, Grade.CONTRADICTING):
        found.append(f"{say['grade']}: {say[f'grade_{job.identity.grade.value}']}.")
    return found


def altered_note(job: Job, language: str) -> list[str]:
    """That copied attributes had to be changed, if any had."""
    if not job.sources.altered:
        return []
    return [words(language)["altered"].format(names=", ".join(job.sources.altered))]


def moment(compact: str, language: str) -> str:
    """``YYYYMMDDHHMMSS`` for people."""
    if len(compact) < 12:
        return words(language)["unknown"]
    return f"{compact[:4]}-{compact[4:6]}-{compact[6:8]} {compact[8:10]}:{compact[10:12]}"


def analysed(job: Job) -> str:
    """The run's time, with its offset."""
    offset = text.dicom_offset(job.sources.offset_minutes)
    return f"{job.created:%Y-%m-%d %H:%M} {offset[:3]}:{offset[3:]}"


def remarks(job: Job, language: str, volume_notes: tuple[str, ...]) -> list[str]:
    """The text items of the structured report, most important first."""
    say = words(language)
    identity, model = job.identity, job.findings.model
    lines = [f"{say['banner']}. {say['unreviewed'].capitalize()}. {say['support']}"]
    if job.producer.is_research_use_only:
        lines.append(f"{say['not_clinical']} {say['ruo']}")
    if not job.findings.has_region and not job.findings.observations:
        lines.append(f"{say['no_region']} {say['no_region_note']}")
    if identity.predecessor is not None:
        lines.append(say["replaces"].format(n=identity.revision_number))
    lines.append(f"{say['grade']}: {say[f'grade_{identity.grade.value}']}.")
    lines += [text.plain(note) for note in (*volume_notes, *identity.notes, *job.findings.notes)]
    for region in job.findings.regions:
        lines += [f"{text.plain(region.name)}: {text.plain(removed)}" for removed in region.removed]
    lines += altered_note(job, language)
    lines.append(f"{say['acquired']}: {moment(job.sources.series[0].acquired, language)}.")
    lines.append(f"{say['analysed']}: {analysed(job)}.")
    if model.intended_use:
        lines.append(f"{say['intended_use']}: {text.plain(model.intended_use)}")
    if job.producer.contact:
        lines.append(f"{say['contact']}: {text.plain(job.producer.contact)}")
    return [line for line in lines if line]
