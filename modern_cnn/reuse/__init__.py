"""What is done with a network once it is trained: predict.py on image files, export.py for other programs."""
