"""One module for each outside thing: database, index file, AWS, templates, log files. Never imports a stage."""
