"""The ASGI application: ``uvicorn project.asgi:application``."""

import os

from django.core.asgi import get_asgi_application

from tenantry.asgi import PoolLifespan

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

application = PoolLifespan(get_asgi_application())
