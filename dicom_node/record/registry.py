"""Model aliases, shadows and replays: which version is in force, which reads along, and how they compare.

An alias stands for one version or, for an A/B comparison, for several by percent.  Every change is audited with its
reason.  *Trials* are runs of another version on a run's case; nothing of them is ever delivered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from dicom_node.record import audit
from dicom_node.record.database import now
from dicom_node.record.tables import cases, model_aliases, replays, runs, shadows, studies, trials
from dicom_node.words import RunState

STABLE = "stable"

QUEUED, DONE, REFUSED, FAILED = "queued", "done", "refused", "failed"


@dataclass(frozen=True)
class Choice:
    """One version that an alias stands for, and for how many of a hundred studies."""

    version: str
    digest: str
    percent: int = 100


def alias(connection: Connection, model: str, name: str) -> tuple[Choice, ...]:
    """What an alias stands for; empty when it was never set."""
    query = select(model_aliases.c.choices).where(model_aliases.c.model == model, model_aliases.c.alias == name)
    found = connection.execute(query).scalar()
    return tuple(Choice(**entry) for entry in found or ())


def aliases(connection: Connection) -> list[RowMapping]:
    """Every alias, by model and name."""
    query = select(model_aliases).order_by(model_aliases.c.model, model_aliases.c.alias)
    return list(connection.execute(query).mappings())


def set_alias(
    connection: Connection, model: str, name: str, choices: Sequence[Choice], actor: str, reason: str
) -> tuple[Choice, ...]:
    """Let an alias stand for other versions from now on; what it stood for before."""
    before = alias(connection, model, name)
    connection.execute(delete(model_aliases).where(model_aliases.c.model == model, model_aliases.c.alias == name))
    values = {"model": model, "alias": name, "choices": [asdict(choice) for choice in choices]}
    connection.execute(insert(model_aliases).values(**values, changed_at=now(), changed_by=actor))
    audit.append(
        connection,
        actor,
        "model.switched",
        model=model,
        alias=name,
        before=[asdict(choice) for choice in before],
        after=[asdict(choice) for choice in choices],
        reason=reason,
    )
    return before


def start_shadow(connection: Connection, model: str, version: str, digest: str, actor: str, reason: str) -> int:
    """Let a version read along with every further run of its model; the shadow's id, the same one when it runs."""
    for row in active_shadows(connection, model):
        if row["version"] == version and row["digest"] == digest:
            return int(row["id"])
    values = {"model": model, "version": version, "digest": digest, "started_at": now(), "actor": actor}
    added = connection.execute(insert(shadows).values(values).returning(shadows.c.id)).scalar_one()
    audit.append(connection, actor, "model.shadow-started", model=model, version=version, reason=reason)
    return int(added)


def stop_shadows(connection: Connection, model: str, actor: str, reason: str) -> int:
    """End every shadow of a model; how many there were."""
    running = active_shadows(connection, model)
    if running:
        connection.execute(
            update(shadows).where(shadows.c.model == model, shadows.c.stopped_at.is_(None)).values(stopped_at=now())
        )
        versions = [row["version"] for row in running]
        audit.append(connection, actor, "model.shadow-stopped", model=model, versions=versions, reason=reason)
    return len(running)


def active_shadows(connection: Connection, model: str | None = None) -> list[RowMapping]:
    """The versions that read along now, of one model or of all."""
    query = select(shadows).where(shadows.c.stopped_at.is_(None)).order_by(shadows.c.id)
    return list(connection.execute(query if model is None else query.where(shadows.c.model == model)).mappings())


def add_replay(connection: Connection, model: str, version: str, actor: str, reason: str) -> int:
    """Insert a replay without parts yet; its id."""
    values = {"model": model, "version": version, "created_at": now(), "actor": actor}
    added = connection.execute(insert(replays).values(values).returning(replays.c.id)).scalar_one()
    audit.append(connection, actor, "model.replayed", model=model, version=version, reason=reason)
    return int(added)


def add_trial(
    connection: Connection,
    run_id: int,
    candidate: str,
    candidate_digest: str,
    *,
    shadow_id: int | None = None,
    replay_id: int | None = None,
) -> tuple[int, bool]:
    """Insert a trial unless this run has it already for this shadow or replay; its id, and whether it is new."""
    key = f"{run_id}/{candidate_digest}/{'shadow' if replay_id is None else 'replay'}-{shadow_id or replay_id}"
    found = connection.execute(select(trials.c.id).where(trials.c.trial_key == key)).scalar()
    if found is not None:
        return int(found), False
    values = {
        "trial_key": key,
        "shadow_id": shadow_id,
        "replay_id": replay_id,
        "run_id": run_id,
        "candidate": candidate,
        "candidate_digest": candidate_digest,
        "state": QUEUED,
        "created_at": now(),
    }
    return int(connection.execute(insert(trials).values(values).returning(trials.c.id)).scalar_one()), True


def trial(connection: Connection, trial_id: int) -> RowMapping:
    """One trial."""
    return connection.execute(select(trials).where(trials.c.id == trial_id)).mappings().one()


def count_start(connection: Connection, trial_id: int) -> int:
    """Count a start of a trial before its work begins (I11); which one this is."""
    connection.execute(update(trials).where(trials.c.id == trial_id).values(starts=trials.c.starts + 1))
    return int(connection.execute(select(trials.c.starts).where(trials.c.id == trial_id)).scalar_one())


def uncount_start(connection: Connection, trial_id: int) -> None:
    """Take the count of a start back: the worker was told to stop, and has not died of it."""
    connection.execute(update(trials).where(trials.c.id == trial_id).values(starts=trials.c.starts - 1))


def end_trial(connection: Connection, trial_id: int, state: str, **columns: Any) -> None:
    """Write what came of a trial, once."""
    connection.execute(
        update(trials)
        .where(trials.c.id == trial_id, trials.c.state == QUEUED)
        .values(state=state, ended_at=now(), **columns)
    )


def queued_trials(connection: Connection) -> list[int]:
    """Trials without an end: the reconciler asks for each whether a job is alive."""
    found = connection.execute(select(trials.c.id).where(trials.c.state == QUEUED).order_by(trials.c.id))
    return [int(number) for number in found.scalars()]


def trials_of(
    connection: Connection, *, model: str | None = None, replay_id: int | None = None, shadow_id: int | None = None
) -> list[RowMapping]:
    """Trials with their run's model, study and state, oldest first."""
    query = (
        select(
            trials,
            cases.c.model.label("reference"),
            runs.c.study_uid,
            runs.c.identity,
            studies.c.public_id.label("study"),
        )
        .join(runs, runs.c.id == trials.c.run_id)
        .join(cases, cases.c.id == runs.c.case_id)
        .join(studies, studies.c.uid == runs.c.study_uid)
        .order_by(trials.c.id)
    )
    if model is not None:
        query = query.where(cases.c.model.like(f"{model}@%"))
    if replay_id is not None:
        query = query.where(trials.c.replay_id == replay_id)
    if shadow_id is not None:
        query = query.where(trials.c.shadow_id == shadow_id)
    return list(connection.execute(query).mappings())


def past_runs(connection: Connection, model: str, limit: int, study_uid: str | None = None) -> list[RowMapping]:
    """The newest finished runs of a model in any version, one per study and result family, newest first."""
    newest = (
        select(func.max(runs.c.id))
        .join(cases, cases.c.id == runs.c.case_id)
        .where(runs.c.state == RunState.BUILT.value, cases.c.model.like(f"{model}@%"))
        .group_by(runs.c.study_uid, runs.c.result_family)
    )
    query = select(runs).where(runs.c.id.in_(newest)).order_by(runs.c.id.desc()).limit(limit)
    if study_uid is not None:
        query = query.where(runs.c.study_uid == study_uid)
    return list(connection.execute(query).mappings())
