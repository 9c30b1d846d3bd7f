"""The WSGI application: ``gunicorn project.wsgi``."""

import os

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

# Behind a web server, that one would serve the files.
application = StaticFilesHandler(get_wsgi_application())
