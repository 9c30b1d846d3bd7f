"""Logging in where a policy protects the table of users, in the project of the guide."""

from __future__ import annotations

import sys

import pytest
from django.contrib.auth.models import update_last_login
from django.contrib.auth.signals import user_logged_in

from tests.fix_docs import SESSION, Reader

# Each user's password has a hash that Django no longer makes.
ARRANGE = """
>>> import asyncio
>>> from django.contrib.auth import aauthenticate, authenticate
>>> from django.contrib.auth.hashers import make_password
>>> from django.test import AsyncClient, Client
>>> from notes.models import User
>>> from tenantry import admin_context
>>> old = make_password("secret", hasher="pbkdf2_sha1")
>>> with admin_context():
...     User.objects.update(password=old, is_staff=True, last_login=None)
4
>>> def state(name):
...     with admin_context():
...         user = User.objects.get(username=name)
...         return user.password.partition("$")[0], user.last_login is not None
>>> state("ada")
('pbkdf2_sha1', False)
"""
SYNC = """
>>> for name in ("ada", "grace", "root"):
...     client = Client(SERVER_NAME="localhost")
...     form = {"username": name, "password": "secret"}
...     print(client.post("/admin/login/?next=/", form).headers["Location"])
...     print(state(name), len(client.get("/").json()["notes"]))
/
('pbkdf2_sha256', True) 2
/
('pbkdf2_sha256', True) 1
/
('pbkdf2_sha256', True) 3
>>> for name, password in [("ada", "wrong"), ("nobody", "secret")]:
...     print(authenticate(username=name, password=password))
None
None
"""
ASYNC = """
>>> async def notes(name):
...     client = AsyncClient()
...     print(await client.alogin(username=name, password="secret"))
...     return len((await client.get("/")).json()["notes"])
>>> for name in ("ada", "root"):
...     print(asyncio.run(notes(name)), state(name))
True
2 ('pbkdf2_sha256', True)
True
3 ('pbkdf2_sha256', True)
>>> print(asyncio.run(aauthenticate(username="grace", password="wrong")))
None
"""


@pytest.mark.parametrize("session", [SYNC, ASYNC], ids=["sync", "async"])
def test_users_log_in_and_what_that_writes_is_written(session: str, reader: Reader) -> None:
    reader.follow("how-to/protect-users.md")
    with (reader.folder / "notebook" / "settings.py").open("a") as file:
        file.write('ALLOWED_HOSTS = ["*"]\n')
    reader.run([sys.executable, "-W", "error", "-c", SESSION], ARRANGE + session)


def test_the_guide_takes_the_place_of_the_receiver_of_django() -> None:
    assert user_logged_in.disconnect(dispatch_uid="update_last_login")
    user_logged_in.connect(update_last_login, dispatch_uid="update_last_login")
