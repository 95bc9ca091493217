"""The tables of the record (design section 5).

SQLAlchemy 2 Core tables: `dicom_node.record` is the only place where SQL is written.  Truth is vault + artefacts +
these rows; the workflow engine only decides when and where.  Times are aware UTC as ISO 8601 text with microseconds
(one representation on every database); order comes from ids, never from clocks (I13).
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    true,
)

Json = JSON(none_as_null=True)
"""None is SQL NULL, so that `IS NULL` means what it says."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

site = Table(
    "site",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
"""Facts of the installation: site_namespace, node_instance."""

arrivals = Table(
    "arrivals",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("calling_ae", String(16), nullable=False),
    Column("peer", String(64), nullable=False),
    Column("opened_at", String(32), nullable=False),
    Column("closed_at", String(32)),
    Column("released", Boolean),
    Column("instances", Integer, nullable=False, default=0),
)
"""One association (or upload).  `released` is False when it was aborted."""

instances = Table(
    "instances",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("uid", String(64), nullable=False, unique=True),
    Column("sop_class_uid", String(64), nullable=False),
    Column("transfer_syntax_uid", String(64), nullable=False),
    Column("path", Text, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("bytes_sha256", String(64), nullable=False),
    Column("arrival_id", ForeignKey("arrivals.id"), nullable=False, index=True),
    Column("received_at", String(32), nullable=False),
    Column("calling_ae", String(16), nullable=False),
    # filled by the indexer, outside the C-STORE handler
    Column("study_uid", String(64), index=True),
    Column("series_uid", String(64), index=True),
    Column("content_sha256", String(64)),
    Column("header", Json),
    Column("refusal", Json),
    Column("own_result", Boolean, nullable=False, default=False),
    Column("pass_state", String(8), index=True),
    Column("pass_attempts", Integer, nullable=False, default=0),
    Column("removed_at", String(32)),
)
"""One row per SOP Instance UID.  `content_sha256` is empty until the indexer has read the file.  `pass_state`: whether
the original goes on to the archive: empty (it came from there), pending, passed, failed (the archive refused it), or
private (it stays in the node).  `removed_at`: since when its file is deleted (`removals`)."""

copies = Table(
    "copies",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("uid", String(64), nullable=False, index=True),
    Column("path", Text, nullable=False),
    Column("bytes_sha256", String(64), nullable=False),
    Column("arrival_id", ForeignKey("arrivals.id"), nullable=False),
    Column("received_at", String(32), nullable=False),
    Column("content_sha256", String(64)),
    Column("verdict", String(16)),
    UniqueConstraint("uid", "bytes_sha256"),
)
"""Further bytes that came under a UID we hold: `verdict` becomes duplicate (file dropped) or conflict (quarantined)."""

studies = Table(
    "studies",
    metadata,
    Column("uid", String(64), primary_key=True),
    Column("public_id", String(32), nullable=False, unique=True),
    Column("identity", Json, nullable=False),
    Column("first_seen_at", String(32), nullable=False),
    Column("last_activity_at", String(32), nullable=False),
    Column("quiet_at", String(32)),
    Column("quiet_number", Integer, nullable=False, default=0),
    Column("quiet_put_at", String(32)),
    Column("held", Json),
    Column("cancelled", Boolean, nullable=False, default=False),
    Column("submitter", String(64)),
    Column("turn", Integer),
    Column("reader", String(64)),
    Column("reader_deaths", Integer, nullable=False, default=0, server_default="0"),
    Column("site", String(64), index=True),
    Column("identity_removed_at", String(32)),
)
"""`identity`: patient and study attributes by keyword, from the first instance.  `public_id` is opaque, for logs and
pages.  `quiet_at`: when the quiet period was declared over, emptied by new arrivals; `quiet_number` counts these
declarations, `quiet_put_at` says that the last one was put to the road.  `submitter`, `turn`: who brought its first
closed series, and its place among what others brought (`record.turns`).  `reader`: the worker that reads and decides on
it at this moment; `reader_deaths`: how many died of it in a row.  `site`: key of the site whose study it is,
empty where none could be told.  `identity_removed_at`: since when nothing here says whose study it is."""

series = Table(
    "series",
    metadata,
    Column("uid", String(64), primary_key=True),
    Column("study_uid", ForeignKey("studies.uid"), nullable=False, index=True),
    Column("public_id", String(32), nullable=False, unique=True),
    Column("facts", Json),
    Column("last_arrival_at", String(32), nullable=False),
    Column("is_open", Boolean, nullable=False, default=True, index=True),
    Column("expected", Json),
    Column("role", String(32)),
    Column("role_confidence", String(8)),
    Column("role_reasons", Json),
    Column("held", Json),
)
"""`is_open`: instances arrived that no revision holds yet.  `expected`: counts announced by others, such as
{"archive": 26, "images_in_acquisition": 26}."""

revisions = Table(
    "revisions",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("series_uid", ForeignKey("series.uid"), nullable=False, index=True),
    Column("study_uid", String(64), nullable=False, index=True),
    Column("number", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("set_sha256", String(64), nullable=False),
    Column("grade", String(16), nullable=False),
    Column("evidence", Json, nullable=False),
    Column("instance_uids", Json, nullable=False),
    Column("closed_at", String(32), nullable=False),
    Column("put_at", String(32)),
    Column("volume_path", Text),
    Column("refusal", Json),
    Column("appearance", Json),
    Column("assembled", Boolean, nullable=False, default=False),
    UniqueConstraint("series_uid", "number"),
    UniqueConstraint("series_uid", "set_sha256", name="uq_revisions_series_set"),
)
"""A row exists from the moment the series was judged complete; `put_at`: when its `read` job was put to the road."""

cases = Table(
    "cases",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("study_uid", ForeignKey("studies.uid"), nullable=False, index=True),
    Column("route", String(64), nullable=False),
    Column("result_family", String(64), nullable=False),
    Column("model", String(128), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("revisions", Json, nullable=False),
    Column("publish", String(16), nullable=False),
    Column("destinations", Json, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("reasons", Json, nullable=False),
    Column("refusal", Json),
    Column("supersedes_case", Integer),
    Column("created_at", String(32), nullable=False),
    Column("case_key", String(64), nullable=False, unique=True),
)
"""`rank`: which role set of the route was filled (0 is the best).  `case_key`: digest of study, route and revisions."""

runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("run_key", String(64), nullable=False, unique=True),
    Column("case_id", ForeignKey("cases.id"), nullable=False, index=True),
    Column("study_uid", String(64), nullable=False, index=True),
    Column("result_family", String(64), nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("created_at", String(32), nullable=False),
    Column("identity", Json, nullable=False),
    Column("model_digest", String(64), nullable=False),
    Column("settings_digest", String(64), nullable=False),
    Column("predecessor_run", Integer),
    Column("superseded_by", Integer),
    Column("current_attempt", Integer, nullable=False, default=0),
    Column("child_deaths", Integer, nullable=False, default=0),
    Column("worker_deaths", Integer, nullable=False, default=0),
    Column("refusal", Json),
    Column("error", Text),
    Column("cancel", Boolean, nullable=False, default=False),
    Column("cache_hit", Boolean, nullable=False, default=False),
)
"""One model version under one setting on one case.  `created_at` is the only clock its objects may show."""

attempts = Table(
    "attempts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("run_id", ForeignKey("runs.id"), nullable=False, index=True),
    Column("number", Integer, nullable=False),
    Column("stage", String(16), nullable=False),
    Column("worker", String(64), nullable=False),
    Column("started_at", String(32), nullable=False),
    Column("ended_at", String(32)),
    Column("outcome", String(32)),
    Column("detail", Text),
    UniqueConstraint("run_id", "number"),
)
"""Counted before the work starts; artefacts and deliveries are inserted only while their attempt is the current one."""

artefacts = Table(
    "artefacts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("run_id", ForeignKey("runs.id"), nullable=False, index=True),
    Column("attempt", Integer, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("path", Text, nullable=False),
    Column("sop_class_uid", String(64)),
    Column("sop_instance_uid", String(64), index=True),
    Column("series_uid", String(64)),
    Column("created_at", String(32), nullable=False),
    Column("removed_at", String(32)),
    UniqueConstraint("run_id", "kind"),
)
"""What a run left, by kind.  `removed_at`: since when its file is deleted (`removals`)."""

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("run_id", ForeignKey("runs.id"), nullable=False, index=True),
    Column("artefact_id", ForeignKey("artefacts.id"), nullable=False),
    Column("destination", String(32), nullable=False),
    Column("position", Integer, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("attempts", Integer, nullable=False, default=0),
    Column("first_tried_at", String(32)),
    Column("last_tried_at", String(32)),
    Column("next_try_at", String(32)),
    Column("confirmed_at", String(32)),
    Column("confirmation", Json),
    Column("reason", Json),
    UniqueConstraint("artefact_id", "destination"),
)
"""One object to one destination, in sending order within (run, destination)."""

circuits = Table(
    "circuits",
    metadata,
    Column("destination", String(32), primary_key=True),
    Column("failures", Integer, nullable=False, default=0),
    Column("opened_at", String(32)),
    Column("probe_at", String(32)),
    Column("pause_s", Float, nullable=False, default=0.0),
    Column("reason", Text),
)
"""A destination that failed lately: how often in a row, since when only probes are tried, and when the next one is."""

pauses = Table(
    "pauses",
    metadata,
    Column("destination", String(32), primary_key=True),
    Column("since", String(32), nullable=False),
    Column("actor", String(128), nullable=False),
    Column("reason", Text, nullable=False),
)
"""A destination that a person has told the node to leave alone, until a person says otherwise."""

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", String(32), nullable=False),
    Column("study_uid", String(64), index=True),
    Column("series_uid", String(64)),
    Column("run_id", Integer),
    Column("name", String(64), nullable=False),
    Column("detail", Json, nullable=False),
)
"""The timeline: everything that happened to a study, in the order of ids."""

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", String(32), nullable=False),
    Column("actor", String(128), nullable=False),
    Column("action", String(64), nullable=False),
    Column("study_uid", String(64)),
    Column("detail", Json, nullable=False),
    Column("previous_sha256", String(64), nullable=False),
    Column("sha256", String(64), nullable=False, unique=True),
)
"""Who did what and when, as a hash chain (I21)."""

audit_heads = Table(
    "audit_heads",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("entries", Integer, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("made_at", String(32), nullable=False),
    Column("key", String(16), nullable=False),
    Column("signature", String(88), nullable=False),
)
"""Signed statements of how far the audit log went (`dicom_node.auditing`)."""

audit_exports = Table(
    "audit_exports",
    metadata,
    Column("way", String(16), primary_key=True),
    Column("upto", Integer, nullable=False),
    Column("at", String(32), nullable=False),
)
"""The last head, or entry, that has left this machine by a way."""

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", String(64), nullable=False),
    Column("prefix", String(16), nullable=False),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("scopes", Json, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("revoked_at", String(32)),
    Column("last_used_at", String(32)),
    Column("user_id", Integer, index=True),
)
"""`user_id`: the account in whose name a service acts with this key, empty for a key of the node's own doors."""

reports = Table(
    "reports",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("run_id", ForeignKey("runs.id"), nullable=False, index=True),
    Column("resource_type", String(32), nullable=False),
    Column("resource_id", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("updated_at", String(32), nullable=False),
    Column("study_uid", String(64), nullable=False, index=True),
    Column("resource", Json, nullable=False),
    Column("is_current", Boolean, nullable=False, default=True, server_default=true()),
    Column("removed_at", String(32)),
    UniqueConstraint("resource_type", "resource_id", "version"),
    Index("ix_reports_shown", "resource_type", "is_current", "updated_at", "resource_id"),
)
"""What the node's own read-only FHIR endpoint shows: every version of every resource of a published report.

`removed_at`: since when the resource is deleted; of its body nothing is left but type and id."""

report_tokens = Table(
    "report_tokens",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("report_id", ForeignKey("reports.id"), nullable=False, index=True),
    Column("parameter", String(32), nullable=False),
    Column("system", String(255), nullable=False),
    Column("value", String(255), nullable=False),
    Index("ix_report_tokens_value", "parameter", "value"),
)
"""By what the current version of a resource can be found: search parameter, system and code or value."""

model_aliases = Table(
    "model_aliases",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("model", String(64), nullable=False),
    Column("alias", String(32), nullable=False),
    Column("choices", Json, nullable=False),
    Column("changed_at", String(32), nullable=False),
    Column("changed_by", String(128), nullable=False),
    UniqueConstraint("model", "alias"),
)
"""What `name@alias` stands for now: [{"version", "digest", "percent"}], percents adding up to 100."""

replays = Table(
    "replays",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("model", String(64), nullable=False),
    Column("version", String(32), nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("actor", String(128), nullable=False),
)
"""One request to read past studies again with another version; its parts are `trials`."""

shadows = Table(
    "shadows",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("model", String(64), nullable=False),
    Column("version", String(32), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("started_at", String(32), nullable=False),
    Column("stopped_at", String(32)),
    Column("actor", String(128), nullable=False),
)
"""A version that reads along with every run of its model; active while `stopped_at` is empty."""

trials = Table(
    "trials",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("trial_key", String(128), nullable=False, unique=True),
    Column("shadow_id", ForeignKey("shadows.id"), index=True),
    Column("replay_id", ForeignKey("replays.id"), index=True),
    Column("run_id", ForeignKey("runs.id"), nullable=False, index=True),
    Column("candidate", String(128), nullable=False),
    Column("candidate_digest", String(64), nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("starts", Integer, nullable=False, default=0),
    Column("comparison", Json),
    Column("mask_path", Text),
    Column("mask_sha256", String(64)),
    Column("reason", Text),
    Column("created_at", String(32), nullable=False),
    Column("ended_at", String(32)),
)
"""Another version on the case of a run, compared with what the run said and never delivered: for a shadow or a replay.
`state`: queued, done, refused or failed."""

predictions = Table(
    "predictions",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("public_id", String(32), nullable=False, unique=True),
    Column("owner", String(64), nullable=False, index=True),
    Column("batch", String(32), index=True),
    Column("position", Integer, nullable=False, default=0),
    Column("idempotency_key", String(128)),
    Column("body_sha256", String(64), nullable=False),
    Column("asked", String(128), nullable=False),
    Column("model", String(128), nullable=False),
    Column("model_digest", String(64)),
    Column("inputs", Json, nullable=False),
    Column("options", Json, nullable=False),
    Column("warnings", Json, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("stage", String(16), nullable=False),
    Column("current_attempt", Integer, nullable=False, default=0),
    Column("worker", String(64)),
    Column("child_deaths", Integer, nullable=False, default=0),
    Column("worker_deaths", Integer, nullable=False, default=0),
    Column("cancel", Boolean, nullable=False, default=False),
    Column("refusal", Json),
    Column("error", Text),
    Column("study_uid", String(64)),
    Column("created_at", String(32), nullable=False),
    Column("finished_at", String(32)),
    Column("seconds", Json, nullable=False),
    Column("answer", Json),
    Column("files", Json),
    Column("transfers", Json),
    UniqueConstraint("owner", "idempotency_key", "position"),
)
"""A request for a prediction by HTTP.  `owner`: the prefix of the key that asked.  `inputs`: uploads in the spool, by
digest and role.  `stage`: read, infer or write: what comes next.  `files`: what can be fetched, by name."""

prediction_events = Table(
    "prediction_events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("prediction_id", ForeignKey("predictions.id"), nullable=False, index=True),
    Column("at", String(32), nullable=False),
    Column("name", String(64), nullable=False),
    Column("detail", Json, nullable=False),
)
"""The timeline of a request, in the order of ids."""

pixels_seen = Table(
    "pixels_seen",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("pixels_sha256", String(64), nullable=False, index=True),
    Column("patient_sha256", String(64), nullable=False),
    Column("study_uid", String(64), nullable=False),
    Column("at", String(32), nullable=False),
    UniqueConstraint("pixels_sha256", "patient_sha256", "study_uid"),
)
"""Which patient's study brought which pixels to a model: the same pixels under two patients are a warning in both."""

sites = Table(
    "sites",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("key", String(64), nullable=False, unique=True),
    Column("title", String(128), nullable=False),
    Column("identifier_types", Json, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("closed_at", String(32)),
)
"""Posts and hospitals whose studies, analyses and users are kept apart.  `identifier_types`: how a patient can be
named there, [{"key", "title", "system", "issuer", "check"}]."""

users = Table(
    "users",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("public_id", String(32), nullable=False, unique=True),
    Column("email", String(254), nullable=False, unique=True),
    Column("name", String(128), nullable=False),
    Column("password_hash", String(255), nullable=False),
    Column("roles", Json, nullable=False),
    Column("sites", Json, nullable=False),
    Column("language", String(8), nullable=False),
    Column("state", String(16), nullable=False),
    Column("must_change_password", Boolean, nullable=False, default=False),
    Column("created_at", String(32), nullable=False),
    Column("password_changed_at", String(32), nullable=False),
    Column("signed_in_at", String(32)),
    Column("second_factor_at", String(32)),
)
"""People and services that sign in.  `sites`: keys of sites.  `state`: active or disabled; a row is never deleted,
because the audit log names it.  `second_factor_at`: since when a code is asked for besides the password."""

second_factors = Table(
    "second_factors",
    metadata,
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    Column("secret", Text),
    Column("pending", Text),
    Column("pending_session", Integer),
    Column("last_step", Integer, nullable=False, default=0),
    Column("recovery", Json, nullable=False),
)
"""Of what codes are made (RFC 6238), sealed.  `pending`: the same of a device that was not confirmed yet, by the
session that asked for it.  `last_step`: of the last code that was taken; none before it counts.  `recovery`: digests of
the one-time codes that are left."""

sessions = Table(
    "sessions",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("token_sha256", String(64), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("created_at", String(32), nullable=False),
    Column("seen_at", String(32), nullable=False),
    Column("expires_at", String(32), nullable=False, index=True),
    Column("revoked_at", String(32)),
    Column("agent", String(255), nullable=False, default=""),
)
"""Who is signed in where: `kind` is portal (cookie), luna (token), or half: a password was
right, and a code is waited for.  Only the digest of the secret is kept."""

sign_in_failures = Table(
    "sign_in_failures",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("subject", String(80), nullable=False, unique=True),
    Column("count", Integer, nullable=False),
    Column("last_at", String(32), nullable=False),
    Column("not_before", String(32)),
)
"""How often in a row signing in failed, by account and by address, both as digests."""

password_tokens = Table(
    "password_tokens",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("token_sha256", String(64), nullable=False, unique=True),
    Column("created_at", String(32), nullable=False),
    Column("expires_at", String(32), nullable=False),
    Column("used_at", String(32)),
)
"""Tokens with which a password can be set once."""

analyses = Table(
    "analyses",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("public_id", String(32), nullable=False, unique=True),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("site", String(64), nullable=False),
    Column("client_id", String(128)),
    Column("study_uid", String(64), index=True),
    Column("series_uid", String(64)),
    Column("sop_instance_uid", String(64)),
    Column("state", String(16), nullable=False, index=True),
    Column("is_identified", Boolean, nullable=False),
    Column("patient", Json),
    Column("pseudonym", String(32)),
    Column("order_id", String(64)),
    Column("body_site", String(64)),
    Column("laterality", String(16)),
    Column("description", Text, nullable=False, default=""),
    Column("declared", Json),
    Column("consent", String(32), nullable=False),
    Column("impression", String(16), nullable=False, default=""),
    Column("photo_path", Text),
    Column("photo_sha256", String(64)),
    Column("error", Text),
    Column("created_at", String(32), nullable=False),
    Column("submitted_at", String(32)),
    Column("revealed_at", String(32)),
    Column("result_seen_at", String(32)),
    Column("withdrawn_at", String(32)),
    Column("withdrawn_reason", Text),
    Column("replaces_id", Integer, index=True),
    UniqueConstraint("user_id", "client_id"),
    Index("ix_analyses_of_user", "user_id", "created_at"),
    Index("ix_analyses_of_site", "site", "created_at"),
)
"""One photograph of one lesion, asked about by one user.  `state`: received, submitted, failed or withdrawn; what came
of it is read from the runs of its study.  `client_id`: the phone's own name of the upload.  `patient`: identity as it
was confirmed, empty without one; then `pseudonym` stands for it and the study is private to the node."""

reviews = Table(
    "reviews",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("analysis_id", ForeignKey("analyses.id"), nullable=False, index=True),
    Column("state", String(16), nullable=False),
    Column("reply", Text, nullable=False, default=""),
    Column("action", String(64), nullable=False, default=""),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("at", String(32), nullable=False),
)
"""What specialists did with a case: rows are only added, the latest says how it stands (open, answered, closed)."""

outcomes = Table(
    "outcomes",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("analysis_id", ForeignKey("analyses.id"), nullable=False, index=True),
    Column("malignant", Boolean, nullable=False),
    Column("diagnosis", Text, nullable=False, default=""),
    Column("on_date", String(10), nullable=False),
    Column("source", String(8), nullable=False),
    Column("user_id", ForeignKey("users.id")),
    Column("at", String(32), nullable=False),
)
"""What histology said: rows are only added, the latest counts.  `user_id` is empty where a key without an account
wrote it."""

removals = Table(
    "removals",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("study_uid", String(64), nullable=False, index=True),
    Column("parts", Json, nullable=False),
    Column("rule", String(64), nullable=False),
    Column("actor", String(128), nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("begun_at", String(32), nullable=False),
    Column("done_at", String(32)),
    Column("paths", Json),
    Column("files", Integer, nullable=False, default=0),
    Column("size_bytes", Integer, nullable=False, default=0),
)
"""What was deleted of a study.  `parts`: images, results, identity.  `rule`: the setting that said so, or erase.
`state`: begun (decided, and every page says so; files may be left) or done.  `paths`: the files, relative to the data
folder, until they are gone."""

legal_holds = Table(
    "legal_holds",
    metadata,
    Column("study_uid", String(64), primary_key=True),
    Column("since", String(32), nullable=False),
    Column("actor", String(128), nullable=False),
    Column("reason", Text, nullable=False),
)
"""Studies of which nothing is deleted until an administrator says otherwise."""

retention_rounds = Table(
    "retention_rounds",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", String(32), nullable=False),
    Column("actor", String(128), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("studies", Integer, nullable=False),
    Column("files", Integer, nullable=False),
    Column("size_bytes", Integer, nullable=False),
)
"""When the node last looked what is due, and what went: `outcome` is done, more (the rest is for the next round) or
busy (the road comes first).  Of rounds that deleted nothing the last of each outcome is kept."""

Index("ix_events_study_id", events.c.study_uid, events.c.id)

_is_unindexed = instances.c.content_sha256.is_(None)
Index("ix_instances_unindexed", instances.c.id, sqlite_where=_is_unindexed, postgresql_where=_is_unindexed)
"""Short: what the indexer has still to read, and what it could not."""
