"""Prepare native studies for models made for co-registered, skull-stripped brains."""
