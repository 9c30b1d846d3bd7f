"""The addresses of the notes app."""

from django.conf import settings
from django.contrib.auth.views import LogoutView
from django.urls import path

from . import views

urlpatterns = [
    path("", views.note_list, name="notes"),
    path("notes/new/", views.note_create, name="new"),
    path("notes/<int:pk>/", views.note_detail, name="note"),
    path("report/", views.report, name="report"),
    path("slow/", views.slow, name="slow"),
    path("export/", views.export, name="export"),
    path("events/", views.events, name="events"),
    path("everything/", views.everything, name="everything"),
    path("api/notes/", views.api_notes, name="api"),
    path("login/", views.DemoLoginView.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
]

if settings.BOOM:
    urlpatterns.append(path("boom/", views.boom, name="boom"))
