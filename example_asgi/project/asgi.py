"""The ASGI application: ``uvicorn project.asgi:application``."""

import os

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

from tenantry.asgi import PoolLifespan, TenantMiddleware

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

# Behind a web server, that one would serve the files.
django_application = ASGIStaticFilesHandler(get_asgi_application())

# It imports models, which are there once Django is set up.
from notes.sockets import search  # noqa: E402

sockets = TenantMiddleware(search)


async def route(scope, receive, send):
    """Leave WebSockets to the one application that knows them."""
    application = sockets if scope["type"] == "websocket" else django_application
    await application(scope, receive, send)


application = PoolLifespan(route)
