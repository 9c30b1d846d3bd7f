"""The ASGI application: ``uvicorn project.asgi:application``."""

import os

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

from tenantry.asgi import PoolLifespan

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

# Behind a web server, that one would serve the files.
application = PoolLifespan(ASGIStaticFilesHandler(get_asgi_application()))
