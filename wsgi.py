"""The application as servers and ``flask --app wsgi`` load it."""

import sys

from captionapp import create_app
from captionapp.errors import InvalidSetting

try:
    app = create_app()
except InvalidSetting as error:
    print(f"Error: {error}", file=sys.stderr)
    # gunicorn's own status for an application that does not load (Arbiter.APP_LOAD_ERROR): its
    # master stops instead of starting worker after worker.
    sys.exit(4)
