"""Django REST framework: whom each part of a request runs as, once a view knows who asks."""

from __future__ import annotations

import asyncio
import json
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core import checks
from django.db import DatabaseError, connections
from django.http import StreamingHttpResponse
from django.test import AsyncClient, Client, modify_settings, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import include, path
from django.utils.decorators import method_decorator
from django.views import View
from rest_framework import filters, generics, pagination, renderers, serializers
from rest_framework import viewsets as drf_viewsets
from rest_framework.authentication import BasicAuthentication, SessionAuthentication
from rest_framework.decorators import authentication_classes
from rest_framework.exceptions import APIException
from rest_framework.permissions import BasePermission, IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import DefaultRouter
from rest_framework.test import APIClient, APIRequestFactory
from rest_framework.throttling import BaseThrottle
from rest_framework.validators import UniqueValidator
from rest_framework.views import APIView

from tenantry import admin_context, allow_writes, tenant_context
from tenantry.binding import UNBOUND, Binding, current_binding
from tenantry.contrib.drf import CurrentTenantDefault, RLSAPIView, api_view
from tenantry.exceptions import ScopeError
from tests import settings as project
from tests.app.models import Author, Note, Tenant, User

Tenants = tuple[Tenant, Tenant]
PASSWORD = "secret"
seen: list[tuple[str, Binding]] = []


def note_binding(place: str) -> None:
    seen.append((place, current_binding()))


def titles() -> list[str]:
    return list(Note.objects.order_by("id").values_list("title", flat=True))


class Basic(BasicAuthentication):
    def authenticate_credentials(self, userid: Any, password: Any, request: Any = None) -> Any:
        note_binding("authentication")
        return super().authenticate_credentials(userid, password, request)


class HasNotes(BasePermission):
    def has_permission(self, request: Any, view: Any) -> bool:
        note_binding("permission")
        return bool(Note.objects.exists())

    def has_object_permission(self, request: Any, view: Any, obj: Any) -> bool:
        return bool(Note.objects.filter(pk=obj.pk).exists())


class Noting(BaseThrottle):
    def allow_request(self, request: Any, view: Any) -> bool:
        note_binding("throttle")
        return True


AUTHENTICATION = [Basic, SessionAuthentication]


class Base(RLSAPIView):
    authentication_classes = AUTHENTICATION
    permission_classes = [IsAuthenticated, HasNotes]
    throttle_classes = [Noting]


class AuthorSerializer(serializers.ModelSerializer[Author]):
    notes = serializers.SerializerMethodField()

    class Meta:
        model = Author
        fields = ["id", "name", "notes"]

    def get_notes(self, author: Author) -> list[str]:
        return titles()


class NoteSerializer(serializers.ModelSerializer[Note]):
    # Made when the module is imported, and evaluated for each request.
    title = serializers.CharField(validators=[UniqueValidator(queryset=Note.objects.all())])
    written_by = AuthorSerializer(source="author", read_only=True)

    class Meta:
        model = Note
        fields = ["id", "title", "author", "written_by"]


class TitleSerializer(serializers.ModelSerializer[Note]):
    """Checks what is unique in a tenant."""

    tenant = serializers.HiddenField(default=CurrentTenantDefault())

    class Meta:
        model = Note
        fields = ["tenant", "title"]


class Titles(Base, drf_viewsets.ModelViewSet[Note]):
    queryset = Note.objects.order_by("id")
    serializer_class = TitleSerializer


class Pages(pagination.PageNumberPagination):
    page_size = 1


class Cursors(pagination.CursorPagination):
    page_size = 1
    ordering = "id"


class Notes(Base, drf_viewsets.ModelViewSet[Note]):
    queryset = Note.objects.order_by("id")
    serializer_class = NoteSerializer
    renderer_classes = [renderers.JSONRenderer, renderers.BrowsableAPIRenderer]
    filter_backends = [filters.SearchFilter]
    search_fields = ["title"]


class PagedNotes(Notes):
    pagination_class = Pages


class CursorNotes(Notes):
    pagination_class = Cursors


class NotesTheOtherWayRound(drf_viewsets.ReadOnlyModelViewSet[Note], Base):
    queryset = Note.objects.order_by("id")
    serializer_class = NoteSerializer


class PlainView(Base):
    def get(self, request: Request) -> Response:
        return Response(titles())

    post = get


class WritingView(Base):
    def get(self, request: Request) -> Response:
        return Response(Note.objects.create(title="written").pk)


@method_decorator(allow_writes, name="dispatch")
class AllowedView(WritingView):
    """Writes in a GET."""


class ListView(Base, generics.ListAPIView[Note]):
    queryset = Note.objects.order_by("id")
    serializer_class = NoteSerializer


@api_view(["GET"])
@authentication_classes(AUTHENTICATION)
def function_view(request: Request) -> Response:
    """Say what is seen."""
    return Response(titles())


class LazyRenderer(renderers.JSONRenderer):
    def render(self, data: Any, *args: Any, **kwargs: Any) -> bytes:
        return super().render([note.title for note in data], *args, **kwargs)


class LazyView(Base):
    """Leaves the queryset to the rendering, after the view has returned."""

    renderer_classes = [LazyRenderer]

    def get(self, request: Request) -> Response:
        return Response(Note.objects.order_by("id"))


class StreamView(Base):
    def get(self, request: Request) -> StreamingHttpResponse:
        def body() -> Iterator[str]:
            yield json.dumps(titles())

        return StreamingHttpResponse(body())


class FailingView(Base):
    def get(self, request: Request) -> Response:
        assert titles()
        if request.GET:
            error = APIException("asked for")
            error.status_code = 418
            raise error
        raise RuntimeError("asked for")

    def handle_exception(self, exc: Exception) -> Response:
        note_binding("handle_exception")
        return super().handle_exception(exc)


class OpenView(RLSAPIView):
    """Asks for nobody's permission, as for what is public."""

    authentication_classes: Any = AUTHENTICATION

    def get(self, request: Request) -> Response:
        assert request.user.is_authenticated or isinstance(request.user, AnonymousUser)
        return Response(titles())

    def post(self, request: Request) -> Response:
        Note.objects.create(title="written")
        return Response(connections["default"].in_atomic_block)


class OpenToTokensView(OpenView):
    authentication_classes = [Basic]


class NobodyView(OpenView):
    authentication_classes = []


class ForgottenView(APIView):
    authentication_classes = AUTHENTICATION

    def get(self, request: Request) -> Response:
        return Response(titles())


router = DefaultRouter()
router.register("notes", Notes, "notes")
router.register("titles", Titles, "titles")
router.register("paged", PagedNotes, "paged")
router.register("cursors", CursorNotes, "cursors")
router.register("other_way_round", NotesTheOtherWayRound, "other_way_round")
urlpatterns = [
    path("", include(router.urls)),
    path("plain/", PlainView.as_view()),
    path("writing/", WritingView.as_view()),
    path("allowed/", AllowedView.as_view()),
    path("list/", ListView.as_view()),
    path("function/", function_view),
    path("lazy/", LazyView.as_view()),
    path("stream/", StreamView.as_view()),
    path("failing/", FailingView.as_view()),
    path("open/", OpenView.as_view()),
    path("open_to_tokens/", OpenToTokensView.as_view()),
    path("nobody/", NobodyView.as_view()),
    path("forgotten/", ForgottenView.as_view()),
]
TEMPLATES = [
    {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True},
]


@pytest.fixture(autouse=True)
def site(settings: Any, tenants: Tenants) -> Iterator[None]:
    settings.ROOT_URLCONF = __name__
    settings.TEMPLATES = TEMPLATES
    settings.STATIC_URL = "/static/"
    seen.clear()
    for name, tenant in zip("ab", tenants, strict=True):
        User.objects.create_user(name, password=PASSWORD, tenant=tenant)
    User.objects.create_user("admin", password=PASSWORD, is_tenant_admin=True)
    with modify_settings(
        INSTALLED_APPS={"append": ["django.contrib.staticfiles", "rest_framework"]}
    ):
        yield
    assert current_binding() == UNBOUND


def basic(user: str, password: str = PASSWORD) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"{user}:{password}".encode()).decode()}


def author_of(tenant: Tenant) -> int:
    with admin_context():
        return int(Author.objects.get(tenant=tenant).pk)


def titles_of(response: Any) -> list[str]:
    return [each if isinstance(each, str) else each["title"] for each in results_of(response)]


def results_of(response: Any) -> Any:
    content = b"".join(response.streaming_content) if response.streaming else response.content
    found = json.loads(content)
    return found["results"] if isinstance(found, dict) else found


SEEN = {"a": ["A 1", "A 2"], "b": ["B 1", "B 2"], "admin": ["A 1", "A 2", "B 1", "B 2"]}
VIEWS = ["notes", "other_way_round", "plain", "list", "function", "lazy", "stream", "open"]


@pytest.mark.parametrize("target", VIEWS)
@pytest.mark.parametrize("session", ["", "b"])
def test_a_view_sees_the_rows_of_whom_it_has_authenticated(target: str, session: str) -> None:
    client = Client()
    if session:
        client.force_login(User.objects.get(username=session))
    for user, rows in SEEN.items():
        assert titles_of(client.get(f"/{target}/", headers=basic(user))) == rows


@pytest.mark.parametrize("target", VIEWS)
def test_a_session_is_authentication_too(target: str) -> None:
    client = Client()
    client.force_login(User.objects.get(username="a"))
    assert titles_of(client.get(f"/{target}/")) == SEEN["a"]


# Django wants the body of a stream to be async here, which a view of DRF cannot be.
@pytest.mark.parametrize("target", [target for target in VIEWS if target != "stream"])
async def test_under_asgi_a_view_sees_the_same(target: str) -> None:
    async def visit(user: str) -> None:
        for _ in range(2):
            response = await AsyncClient().get(f"/{target}/", headers=basic(user))
            assert titles_of(response) == SEEN[user]

    await asyncio.gather(*map(visit, SEEN))


def test_who_asks_is_known_to_permissions_and_throttles(tenants: Tenants) -> None:
    assert Client().get("/plain/", headers=basic("a")).status_code == 200
    mine = Binding(tenants[0].pk)
    assert seen == [("authentication", UNBOUND), ("permission", mine), ("throttle", mine)]


def test_it_costs_no_query(tenants: Tenants) -> None:
    with CaptureQueriesContext(connections["default"]) as captured:
        assert titles_of(Client().get("/function/", headers=basic("a"))) == SEEN["a"]
    [user, notes] = [query["sql"] for query in captured]
    assert '"app_user"."username" =' in user
    assert f'"app_note"."tenant_id" = {tenants[0].pk}' in notes


def test_authentication_runs_as_nobody_whatever_the_session() -> None:
    client = Client()
    client.force_login(User.objects.get(username="b"))
    assert client.get("/plain/", headers=basic("a")).status_code == 200
    assert seen[0] == ("authentication", UNBOUND)


@pytest.mark.parametrize("target", ["plain", "failing"])
def test_who_is_not_let_in_is_nobody(target: str) -> None:
    client = Client()
    client.force_login(User.objects.get(username="b"))
    response = client.get(f"/{target}/", headers=basic("a", "wrong"))
    assert response.status_code == 401
    assert json.loads(response.content)["detail"] == "Invalid username/password."
    assert {binding for _, binding in seen} == {UNBOUND}


@pytest.mark.parametrize("target", ["open_to_tokens", "nobody"])
def test_a_session_that_a_view_does_not_ask_for_does_not_count(target: str) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.get(username="b"))
    assert titles_of(client.get(f"/{target}/")) == []
    # Another site may send it: such a view does not look for a CSRF token.
    with pytest.raises(DatabaseError, match=r"row-level security|null value"):
        client.post(f"/{target}/")


def test_nothing_is_left_behind(tenants: Tenants) -> None:
    client = Client(raise_request_exception=False)
    assert client.get("/failing/", headers=basic("a")).status_code == 500
    assert client.get("/failing/?known=1", headers=basic("a")).status_code == 418
    assert ("handle_exception", Binding(tenants[0].pk)) in seen
    assert current_binding() == UNBOUND
    assert titles_of(client.get("/open/")) == []


def test_who_forgets_the_base_class_sees_nothing() -> None:
    assert titles_of(Client().get("/forgotten/", headers=basic("a"))) == []


@pytest.mark.parametrize("atomic", [False, True])
def test_rows_are_written_for_the_user(tenants: Tenants, atomic: bool) -> None:
    default = connections["default"]
    default.settings_dict["ATOMIC_REQUESTS"] = atomic
    try:
        response = Client().post("/open/", headers=basic("a"))
    finally:
        default.settings_dict["ATOMIC_REQUESTS"] = False
    assert response.json() is atomic
    with admin_context():
        assert Note.objects.get(title="written").tenant_id == tenants[0].pk


def test_a_request_that_may_not_write_still_may_not() -> None:
    read_only = {**project.RLS_TENANTS, "READ_ONLY_REQUESTS": True}
    with override_settings(RLS_TENANTS=read_only):
        assert titles_of(Client().get("/plain/", headers=basic("a"))) == SEEN["a"]
        assert seen[-1][1].read_only
        client = Client(raise_request_exception=False)
        assert client.get("/writing/", headers=basic("a")).status_code == 500
        assert Client().post("/open/", headers=basic("a")).status_code == 200
        assert Client().get("/allowed/", headers=basic("b")).status_code == 200
        assert not current_binding().read_only
    with admin_context():
        assert titles().count("written") == 2


# What DRF makes of models.


def test_rows_of_others_are_not_found(tenants: Tenants) -> None:
    with admin_context():
        mine, other = (Note.objects.filter(tenant=tenant).earliest("id") for tenant in tenants)
    client = APIClient(headers=basic("a"))
    assert client.get(f"/notes/{mine.pk}/").json()["title"] == "A 1"
    assert client.get(f"/notes/{other.pk}/").status_code == 404
    assert client.patch(f"/notes/{other.pk}/", {"title": "mine"}).status_code == 404
    assert client.delete(f"/notes/{other.pk}/").status_code == 404
    assert client.patch(f"/notes/{mine.pk}/", {"title": "changed"}).json()["title"] == "changed"
    assert client.delete(f"/notes/{mine.pk}/").status_code == 204
    with admin_context():
        assert titles() == ["A 2", "B 1", "B 2"]


def test_a_foreign_key_to_a_row_of_others_does_not_exist(tenants: Tenants) -> None:
    mine, other = map(author_of, tenants)
    client = APIClient(headers=basic("a"))
    missing = client.post("/notes/", {"title": "new", "author": 0})
    denied = client.post("/notes/", {"title": "new", "author": other})
    assert missing.status_code == denied.status_code == 400
    assert denied.json() == {
        "author": [f'Invalid pk "{other}" - object does not exist.'],
    }
    made = client.post("/notes/", {"title": "new", "author": mine})
    assert made.status_code == 201
    with admin_context():
        assert Note.objects.get(title="new").tenant_id == tenants[0].pk


def test_what_is_unique_is_so_among_the_rows_of_one_tenant() -> None:
    client = APIClient(headers=basic("a"))
    taken = client.post("/notes/", {"title": "A 1"})
    assert taken.status_code == 400
    assert taken.json() == {"title": ["This field must be unique."]}
    assert client.post("/notes/", {"title": "B 1"}).status_code == 201


def test_a_nested_serializer_is_bound() -> None:
    [first, _] = APIClient(headers=basic("b")).get("/notes/").json()
    assert first["written_by"]["notes"] == SEEN["b"]


def test_pages_and_searches_count_the_rows_of_one_tenant() -> None:
    client = APIClient(headers=basic("a"))
    page = client.get("/paged/", {"page": 2}).json()
    assert (page["count"], page["results"][0]["title"], page["next"]) == (2, "A 2", None)
    assert client.get("/paged/", {"page": 3}).status_code == 404
    first = client.get("/cursors/").json()
    second = client.get(first["next"]).json()
    assert [each["results"][0]["title"] for each in (first, second)] == SEEN["a"]
    assert second["next"] is None
    assert titles_of(client.get("/notes/", {"search": "1"})) == ["A 1"]


def test_the_browsable_api_is_rendered_as_the_user(tenants: Tenants) -> None:
    client = APIClient(headers={**basic("a"), "Accept": "text/html"})
    page = client.get("/notes/").content.decode()
    mine, other = map(author_of, tenants)
    # The form of a new note offers authors, and is made after the view has returned.
    assert f"Author object ({mine})</option>" in page
    assert f"Author object ({other})</option>" not in page
    assert "A 1" in page
    assert "B 1" not in page


def test_options_need_a_user(tenants: Tenants) -> None:
    found = APIClient(headers=basic("a")).options("/notes/").json()
    assert found["actions"]["POST"]["title"]["required"]
    assert APIClient().options("/notes/").status_code == 401


# Tenants.


@pytest.mark.parametrize("accept", ["application/json", "text/html"])
def test_who_may_not_act_for_a_tenant_is_told_by_drf(tenants: Tenants, accept: str) -> None:
    resolvers = {**project.RLS_TENANTS, "RESOLVERS": ["header", "user"]}
    with override_settings(RLS_TENANTS=resolvers):
        client = APIClient(headers={**basic("a"), "Accept": accept})
        mine, other = ({"X-Tenant": str(tenant.pk)} for tenant in tenants)
        assert client.get("/notes/", headers=mine).status_code == 200
        seen.clear()
        denied = client.get("/notes/", headers=other)
    assert denied.status_code == 403
    assert "You may not act for this tenant." in denied.content.decode()
    assert {binding for _, binding in seen} == {UNBOUND}
    assert "X-Tenant" in denied["Vary"]


def test_a_forced_user_is_bound_as_well() -> None:
    client = APIClient()
    client.force_authenticate(User.objects.get(username="a"))
    assert titles_of(client.get("/plain/")) == SEEN["a"]


def test_a_view_that_is_called_without_the_middleware_says_so() -> None:
    with pytest.raises(ScopeError, match="RLSTenantMiddleware"):
        PlainView.as_view()(APIRequestFactory().get("/"))


def test_a_function_keeps_its_name() -> None:
    made = function_view.cls
    assert (made.__name__, made.__module__) == ("function_view", __name__)
    assert made.__doc__ == "Say what is seen."


# Views that forget it.


def warnings() -> list[str]:
    found = checks.run_checks(tags=[checks.Tags.urls])
    return [f"{each.id} {each.msg}" for each in found]


def test_a_check_names_the_views_that_forget_the_base_class() -> None:
    assert warnings() == [
        f"tenantry.W161 view {__name__}.ForgottenView authenticates by Basic, and does not bind"
        " the request to the user it finds."
    ]


class Sessions(ForgottenView):
    authentication_classes = [SessionAuthentication]


class Mended(RLSAPIView, ForgottenView):
    """Binds now."""


class Routes:
    """Hold routes, as a module does."""

    def __init__(self, *urlpatterns: Any) -> None:
        self.urlpatterns = urlpatterns


def test_a_check_looks_at_the_views_that_are_routed(settings: Any) -> None:
    settings.ROOT_URLCONF = Routes(
        path("sessions/", Sessions.as_view()),
        path("mended/", Mended.as_view()),
        path("function/", function_view),
        path("django/", View.as_view()),
        path("root/", include(DefaultRouter().urls)),
    )
    assert warnings() == []
    forgotten = ForgottenView.as_view()
    below = [path("1/", forgotten), path("2/", forgotten)]
    settings.ROOT_URLCONF = Routes(path("below/", include(below)))
    assert len(warnings()) == 1
    del settings.ROOT_URLCONF
    assert warnings() == []


def test_a_project_without_the_framework_is_asked_nothing(monkeypatch: Any) -> None:
    monkeypatch.delitem(sys.modules, "rest_framework.views")
    assert warnings() == []


def test_without_the_framework_the_extra_is_named(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "rest_framework.views", None)
    monkeypatch.delitem(sys.modules, "tenantry.contrib.drf")
    with pytest.raises(ImportError, match=r"pip install 'django-tenantry\[drf\]'"):
        import_module("tenantry.contrib.drf")


# What is unique in a tenant.


def test_a_serializer_finds_what_its_tenant_has_already(tenants: Tenants) -> None:
    client = APIClient(headers=basic("a"))
    taken = client.post("/titles/", {"title": "A 1"})
    assert (taken.status_code, taken.json()) == (
        400,
        {"non_field_errors": ["The fields tenant, title must make a unique set."]},
    )
    made = client.post("/titles/", {"title": "B 1"})
    assert (made.status_code, made.json()) == (201, {"title": "B 1"})
    with tenant_context(tenants[0].pk):
        mine = Note.objects.get(title="B 1").pk
    for method in (client.put, client.patch):
        assert method(f"/titles/{mine}/", {"title": "B 1"}).status_code == 200
        assert method(f"/titles/{mine}/", {"title": "A 2"}).status_code == 400
    with tenant_context(tenants[0].pk):
        assert titles() == ["A 1", "A 2", "B 1"]


def test_the_current_tenant_is_loaded_when_it_is_looked_at(tenants: Tenants) -> None:
    with CaptureQueriesContext(connections["default"]) as captured:
        with tenant_context(tenants[0].pk):
            tenant = CurrentTenantDefault()()
        assert tenant == tenants[0]
        assert len(captured) == 0
        assert tenant.name == "A"
    assert len(captured) == 1
    assert repr(CurrentTenantDefault()) == "CurrentTenantDefault()"


@pytest.mark.parametrize("scope", [admin_context, nullcontext])
def test_where_no_tenant_is_current_a_serializer_says_so(scope: Any) -> None:
    serializer = TitleSerializer(data={"title": "A 1"})
    with scope():
        assert not serializer.is_valid()
    assert serializer.errors == {"tenant": ["No tenant is current."]}
