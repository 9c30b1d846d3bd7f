"""The addresses of the example, and of what is around it."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, JsonResponse
from django.urls import include, path
from ninja import NinjaAPI
from ninja.security import APIKeyHeader
from notes.models import Note, User
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.generics import ListAPIView
from rest_framework.permissions import IsAuthenticated
from rest_framework.serializers import ModelSerializer, SlugRelatedField

from tenantry.contrib.drf import RLSAPIView
from tenantry.contrib.ninja import TenantAuth
from tests.mixed.jobs import look, look_again

HEADER = "X-Name"


class ByName(BaseAuthentication):
    """Believes what a header says, which only a test may."""

    def authenticate(self, request: Any) -> Any:
        name = request.headers.get(HEADER)
        if name is None:
            return None
        user = User.objects.filter(username=name).first()
        if user is None:
            raise AuthenticationFailed
        return user, None

    def authenticate_header(self, request: Any) -> str:
        return HEADER


class NoteSerializer(ModelSerializer[Any]):
    tenant = SlugRelatedField("slug", read_only=True)

    class Meta:
        model = Note
        fields = ["title", "tenant"]


class Notes(RLSAPIView, ListAPIView[Any]):
    queryset = Note.objects.select_related("tenant").order_by("-pk")
    serializer_class = NoteSerializer
    authentication_classes = [ByName]
    permission_classes = [IsAuthenticated]


class Key(TenantAuth, APIKeyHeader):
    param_name = HEADER

    async def authenticate(self, request: HttpRequest, key: str | None) -> Any:
        return await User.objects.filter(username=key).afirst()


api = NinjaAPI(auth=Key())


@api.get("/notes")
async def notes(request: HttpRequest) -> list[dict[str, str]]:
    found = Note.objects.select_related("tenant").order_by("-pk")
    return [{"title": note.title, "tenant": note.tenant.slug} async for note in found[:50]]


def job(request: HttpRequest) -> JsonResponse:
    """Let the worker look, and return what it has seen."""
    kind = request.GET.get("kind")
    result = look.delay(fail=True) if kind == "fail" else None
    if kind == "chain":
        result = (look.s() | look_again.s()).delay()
    result = result or look.delay()
    found = result.get(timeout=60, propagate=False)
    state = result.state
    result.forget()
    return JsonResponse({"found": found if state == "SUCCESS" else [], "state": state})


urlpatterns = [
    path("drf/", Notes.as_view()),
    path("ninja/", api.urls),
    path("job/", job),
    path("", include("project.urls")),
]
