"""An OAuth 2.0 server for the tests: Django OAuth Toolkit on a loopback address, with one service and one user.

Prints one line of JSON when it serves: its port, the service's credentials and a token that has expired. All other
tokens come from its token endpoint, and end at its revocation endpoint.
"""

import datetime
import json
import sys
from wsgiref.simple_server import WSGIRequestHandler, make_server

import django
from django.conf import settings

CLIENT_ID = "gateway"
# Of the characters that RFC 6749, section 2.3.1, has clients encode.
CLIENT_SECRET = "s3cr:t+ /%&"

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    AUTHENTICATION_BACKENDS=["django.contrib.auth.backends.ModelBackend"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}},
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "oauth2_provider",
    ],
    OAUTH2_PROVIDER={"SCOPES": {"scistream": "Ask for streams", "mail": "Read mail"}},
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of a server that lives as long as a test",
    USE_TZ=True,
)
django.setup()

from django.contrib.auth import get_user_model  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.urls import include, path  # noqa: E402
from django.utils import timezone  # noqa: E402
from oauth2_provider.models import AccessToken, Application  # noqa: E402

urlpatterns = [path("o/", include("oauth2_provider.urls", namespace="oauth2_provider"))]


class Quiet(WSGIRequestHandler):
    """Requests are not worth a line each."""

    def log_message(self, *_):
        pass


call_command("migrate", verbosity=0)
user = get_user_model().objects.create_user("alice", password="wonderland")
application = Application.objects.create(
    client_id=CLIENT_ID,
    client_secret=CLIENT_SECRET,
    client_type=Application.CLIENT_CONFIDENTIAL,
    authorization_grant_type=Application.GRANT_PASSWORD,
    name="gateway",
)
expired = AccessToken.objects.create(
    user=user,
    application=application,
    token="expired-long-ago",
    scope="scistream",
    expires=timezone.now() - datetime.timedelta(hours=1),
)
server = make_server("127.0.0.1", 0, get_wsgi_application(), handler_class=Quiet)
ready = {
    "port": server.server_port,
    "client_id": CLIENT_ID,
    "client_secret": CLIENT_SECRET,
    "username": "alice",
    "password": "wonderland",
    "expired": expired.token,
}
print(json.dumps(ready), flush=True)
server.serve_forever()
