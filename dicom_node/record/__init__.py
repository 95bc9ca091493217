"""The record: database, tables, migrations, timeline, audit, keys.  The only place where SQL is written."""

from dicom_node.record.database import Database, DatabaseRefused, Schema, canonical_json, digest, now

__all__ = ["Database", "DatabaseRefused", "Schema", "canonical_json", "digest", "now"]
