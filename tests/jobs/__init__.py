"""Jobs of the test project, for Celery and for Django's tasks, and what their workers need."""
