"""The example with everything around it: Django REST framework, Ninja and Celery."""
