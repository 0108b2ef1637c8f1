"""Readers of the field's file formats: one module per format, each with `source_files` and `open_source`."""
