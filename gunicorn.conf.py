"""gunicorn -c gunicorn.conf.py wsgi:app

Workers and threads are settings of the application; GUNICORN_CMD_ARGS and the command line go over
everything here.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from gunicorn import glogging

from captionapp import logs
from captionapp import settings as application_settings
from captionapp.errors import InvalidSetting

try:
    settings = application_settings.load()[0]
except InvalidSetting as error:
    sys.exit(f"Error: {error}")

bind = "127.0.0.1:8000"
workers = settings.workers
worker_class = "gthread"  # threads share the one model of their process
threads = settings.threads
keepalive = 5

# Importing torch and reading the weights keeps a small machine busy: that is not a hanging worker.
timeout = 120
#: Seconds that a stopping worker still works on captions nobody waits for any more.
DRAIN_SECONDS = 25
# What is in flight is answered: an upload waits for its caption at most settings.wait_seconds.
graceful_timeout = int(settings.wait_seconds) + DRAIN_SECONDS + 5

limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190

# A heartbeat on a slow disk would stop a worker; memory is never slow.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None
control_socket_disable = True  # one socket for all servers of a user: two of them would quarrel

accesslog = None  # captionapp.logs writes a line for each request, without people's texts
loglevel = settings.log_level


class Logger(glogging.Logger):
    """gunicorn's own lines in the form of the application's."""

    def setup(self, cfg):
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(logs.formatter(settings.log_format))


logger_class = Logger


def prepare_metrics_folder():
    """A fresh folder for the numbers of this master's workers; it survives a reload (SIGHUP).

    It has to be in the environment before a worker imports prometheus_client.
    """
    prefix = "captionapp-metrics-"
    own = f"{prefix}{os.getpid()}-"
    if Path(os.environ.get("PROMETHEUS_MULTIPROC_DIR", "")).name.startswith(own):
        return
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):  # of masters that were killed
        pid = left.name.removeprefix(prefix).split("-")[0]
        if pid.isdigit() and (int(pid) == os.getpid() or not is_running(int(pid))):
            shutil.rmtree(left, ignore_errors=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix=own)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


prepare_metrics_folder()


def on_starting(server):
    if server.cfg.preload_app:
        raise RuntimeError(
            "preload cannot be used: torch does not survive the fork. Start without --preload."
        )
    if os.geteuid() == 0:  # workers may run as another user
        os.chown(os.environ["PROMETHEUS_MULTIPROC_DIR"], server.cfg.uid, server.cfg.gid)


def when_ready(server):
    """A reload (SIGHUP) with settings that cannot be used leaves the server as it is."""
    reload = server.reload

    def checked_reload():
        try:
            application_settings.load()
        except InvalidSetting as error:
            server.log.error("not reloaded: %s", error)
        else:
            reload()

    server.reload = checked_reload


def post_fork(server, worker):
    # The application divides the cores among the workers there are, not those of its settings.
    os.environ["CAPTIONAPP_WORKERS"] = str(server.cfg.workers)


def post_worker_init(worker):
    # Imported here: the pages import prometheus_client, which looks once where numbers are kept.
    from captionapp.web.events import end_streams_with

    # After the fork, and beside the first requests: /healthz answers at once.
    workflow(worker).service.start_loading()
    end_streams_with(worker.wsgi, lambda: not worker.alive)


def worker_int(worker):
    """SIGINT or SIGQUIT: whoever sent it does not want to wait."""
    worker.in_a_hurry = True


def worker_exit(server, worker):
    seconds = 1 if getattr(worker, "in_a_hurry", False) else DRAIN_SECONDS
    if workflow(worker) and not workflow(worker).close(seconds):
        # The end of the interpreter under a thread that is inside torch would be an abort.
        os._exit(0)


def workflow(worker):
    """Of the worker's application; None if that could not be made."""
    app = getattr(worker, "wsgi", None)
    return app.extensions["captionapp"] if app else None


def child_exit(server, worker):
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)


def on_exit(server):
    shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
