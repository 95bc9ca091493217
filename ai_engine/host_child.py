"""The warm model child: ``python -m ai_engine.host_child``, started and watched by `ai_engine.host`.

It loads one package from bytes it has hashed itself, keeps the network compiled and answers jobs one by one over two
pipes.  It ends when a pipe closes and when its parent dies (PR_SET_PDEATHSIG), holds no secret, opens no socket, and
writes nothing but OpenVINO's cache where one is configured.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ai_engine import wire
from ai_engine.children import die_with
from ai_engine.faults import EngineFault
from ai_engine.geometry import Affine
from ai_engine.spared import spare

REQUEST_LIMIT_BYTES = 4 * 1024**3


def main() -> int:
    """Serve until the request pipe closes.  Arguments: request fd, answer fd, lifeline fd, parent's process id."""
    requests, answers, lifeline, parent = (int(text) for text in sys.argv[1:5])
    _die_with(parent, lifeline)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)  # libraries that print must not reach whoever started us
    spare()
    with os.fdopen(requests, "rb", buffering=0) as source, os.fdopen(answers, "wb", buffering=0) as sink:
        return _serve(_Pipe(source, sink))


class _Pipe:
    def __init__(self, source: Any, sink: Any) -> None:
        self._source, self._sink = source, sink

    def read_exactly(self, count: int) -> bytes:
        buffer = bytearray(count)
        view, done = memoryview(buffer), 0
        while done < count:
            got = self._source.readinto(view[done:])
            if not got:
                raise EOFError
            done += got
        return bytes(buffer)

    def receive(self) -> tuple[dict[str, Any], dict[str, wire.Array]]:
        return wire.read_frame(self.read_exactly, REQUEST_LIMIT_BYTES)

    def send(self, body: Mapping[str, Any]) -> None:
        self.send_buffers(wire.pack(body, {}))

    def send_buffers(self, buffers: list[memoryview]) -> None:
        for buffer in buffers:
            done = 0
            while done < len(buffer):
                done += self._sink.write(buffer[done:])


def _serve(pipe: _Pipe) -> int:
    from ai_engine.packages import load_package
    from ai_engine.prediction import EngineSettings
    from dicom_node.refusals import Refused

    try:
        order, _ = pipe.receive()
        try:
            package = load_package(Path(order["folder"]), pinned_sha256=order["digest_sha256"])
            engine = _opened(package, EngineSettings(**order["settings"]))
        except Refused as refused:
            pipe.send({"kind": "refused", "refusal": refused.refusal.to_json()})
            return 0
        except Exception as error:  # a process boundary: whatever it was, the parent must hear it
            pipe.send(_fault(error))
            return 1
        pipe.send({"kind": "ready", "digest_sha256": package.digest_sha256, "identity": vars(engine.identity)})
        while True:
            order, arrays = pipe.receive()
            try:
                buffers = _job(engine, order, arrays)
            except Refused as refused:
                pipe.send({"kind": "refused", "refusal": refused.refusal.to_json()})
            except Exception as error:  # a process boundary, as above
                pipe.send(_fault(error))
            else:
                pipe.send_buffers(buffers)
    except (EOFError, BrokenPipeError):
        return 0


def _opened(package: Any, settings: Any) -> Any:
    """The engine for a package's task."""
    from ai_engine.packages import Classification

    if isinstance(package.description, Classification):
        from ai_engine.classification import ClassifierEngine

        return ClassifierEngine(package, settings)
    from ai_engine.engine import Engine

    return Engine(package, settings)


def _pictures(engine: Any, order: Mapping[str, Any], arrays: Mapping[str, wire.Array]) -> list[memoryview]:
    from ai_engine.findings import Code
    from ai_engine.pictures import InputPicture
    from dicom_node.refusals import Refusal

    pictures = []
    for number, told in enumerate(order["pictures"]):
        site, age = told["body_site"], told["age_years"]
        pictures.append(
            InputPicture(
                pixels=arrays[str(number)],
                declared=told["declared"],
                modality=str(told["modality"]),
                age_years=None if age is None else float(age),
                sex=str(told["sex"]),
                body_site=None if site is None else Code(**site),
            )
        )
    answers: list[dict[str, Any]] = []
    heat_maps: dict[str, wire.Array] = {}
    for number, answer in enumerate(engine.run(pictures)):
        if isinstance(answer, Refusal):
            answers.append({"refusal": answer.to_json()})
            continue
        told = {"findings": answer.findings.to_json(), "quality": answer.quality, "timings_s": answer.timings_s}
        answers.append(told)
        if answer.heat_map is not None:
            heat_maps[str(number)] = answer.heat_map
    return wire.pack({"kind": "answers", "answers": answers}, heat_maps)


def _job(engine: Any, order: Mapping[str, Any], arrays: Mapping[str, wire.Array]) -> list[memoryview]:
    from ai_engine.prediction import InputVolume

    if order.get("kind") == "classify":
        return _pictures(engine, order, arrays)
    inputs = {
        role: InputVolume(
            array=np.asarray(arrays[f"{role}/array"], dtype=np.float32),
            affine=Affine(arrays[f"{role}/affine"]),
            valid=arrays.get(f"{role}/valid"),
            modality=str(modality),
            age_years=None if age is None else float(age),
            body_part=str(part),
        )
        for role, (modality, age, part) in order["inputs"].items()
    }
    prediction = engine.run(inputs)
    answer = {
        "kind": "prediction",
        "findings": prediction.findings.to_json(),
        "timings_s": dict(prediction.timings_s),
        "passes": prediction.passes,
    }
    return wire.pack(answer, {"mask": prediction.mask})


def _fault(error: Exception) -> dict[str, Any]:
    """A fault as code and text.  The engine sees arrays only, so its texts hold no patient data."""
    code = error.code if isinstance(error, EngineFault) else "engine-fault"
    return {"kind": "fault", "code": code, "text": f"{type(error).__name__}: {error}"[:2000]}


def _die_with(parent: int, lifeline: int) -> None:
    """End with the parent: by signal where the kernel offers it, and by the end of a pipe everywhere."""
    die_with(parent)

    def watch() -> None:
        os.read(lifeline, 1)
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
