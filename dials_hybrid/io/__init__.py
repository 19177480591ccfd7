"""The border to DIALS and cctbx: everything that is read and written."""
