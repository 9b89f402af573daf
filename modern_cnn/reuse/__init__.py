"""Use of trained networks: predict.py for image files, export.py for other programs."""
