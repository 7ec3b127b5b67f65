"""The session as a web server: JSON, PNG files and the page in ``assets/demo``."""

import errno
import ipaddress
import logging
import socket

import cv2
from flask import Flask, Response, abort, jsonify, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.serving import BaseWSGIServer, make_server

from paddle_csrl.demo.session import DemoSession, explain
from paddle_csrl.errors import UserError
from paddle_csrl.utils.io import asset

#: Largest uploaded file, in MiB.
MAX_UPLOAD = 20
#: The browser loads nothing from elsewhere.
_POLICY = ("default-src 'self'; img-src 'self' blob:; object-src 'none'; frame-ancestors 'none'; "
           "base-uri 'none'")


def is_local(host: str) -> bool:
    """Tell whether ``host``, a name or an address, is this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def make_app(session: DemoSession, local: bool = True) -> Flask:
    """Make the web application of a session.

    Images go by their number in the session, so that no path comes in from outside.

    Args:
        session: what it shows.
        local: answer under the names of this machine alone, so that no page of the web gets at
            the server by a name that it points here.
    """
    app = Flask(__name__, static_folder=asset("demo"), static_url_path="/static")
    app.config["MAX_CONTENT_LENGTH"] = MAX_UPLOAD * 2**20
    app.json.sort_keys = False  # type: ignore[attr-defined]  # the default provider has it

    @app.before_request
    def refuse_other_sites() -> None:
        origin = request.headers.get("Origin")
        if local and not is_local(request.host.rsplit(":", 1)[0]) \
                or origin and origin.split("://")[-1] != request.host:
            abort(403, "this page is for its own address alone")

    @app.after_request
    def protect(response: Response) -> Response:
        response.headers["Cache-Control"] = "no-store"  # the next run may have the same address
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @app.get("/")
    def page() -> Response:
        return app.send_static_file("index.html")

    @app.get("/api/state")
    def state() -> Response:
        return jsonify(session.state())

    @app.post("/api/images")
    def upload() -> Response:
        file = request.files.get("file")
        if not file:
            raise UserError("no file came along; choose an image")
        return jsonify(id=session.upload(file.filename or "", file.read()))

    @app.get("/api/images/<int:image_id>/<any(picture, thumbnail):kind>")
    def picture(image_id: int, kind: str) -> Response:
        image = session.picture(image_id) if kind == "picture" else session.thumbnail(image_id)
        # The lowest compression: the way is short and people wait.
        _, content = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
                                  [cv2.IMWRITE_PNG_COMPRESSION, 1])
        return Response(content.tobytes(), mimetype="image/png")

    @app.get("/api/images/<int:image_id>/label")
    def label(image_id: int) -> Response:
        ids, version = session.label(image_id)
        headers = {"X-Shape": "{} {}".format(*ids.shape), "X-Version": str(version)}
        return Response(ids.tobytes(), 200, headers, "application/octet-stream")

    @app.route("/api/classes", methods=["POST", "DELETE"])
    def change_classes() -> tuple[Response, int]:
        try:
            body = request.get_json()
        except RecursionError:
            body = None
        if not isinstance(body, dict) or not isinstance(body.get("name"), str):
            raise UserError('no name of a class; send {"name": "zebra"}')
        change = session.add_class if request.method == "POST" else session.remove_class
        change(body["name"])
        return jsonify(session.state()), 202

    app.register_error_handler(Exception, _answer)
    return app


def _answer(error: Exception) -> tuple[Response, int]:
    """Return any error as one line of JSON."""
    if isinstance(error, RequestEntityTooLarge):
        return jsonify(error=f"the file is too large; choose one of at most {MAX_UPLOAD} MiB"), 413
    if isinstance(error, HTTPException):
        return jsonify(error=error.description), error.code or 500
    return jsonify(error=explain(error)), 400 if isinstance(error, UserError) else 500


def listen(host: str, port: int) -> socket.socket:
    """Take a port; 0 takes any that is free.

    Raises:
        UserError: it is in use or no port, or there is no such host here.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
        taken.listen()
    except (OSError, OverflowError) as error:
        taken.close()
        advice = "choose another --host, such as 127.0.0.1"
        if isinstance(error, OverflowError):
            advice = "choose a --port from 1 to 65535, or 0 for any that is free"
        elif error.errno in (errno.EADDRINUSE, errno.EACCES):
            advice = f"choose another --port, such as {max(8041, port % 65535 + 1)}"
        reason = str(getattr(error, "strerror", error)).rstrip(".")
        raise UserError(f"--host {host} --port {port}: {reason}; {advice}") from None
    return taken


def make_page_server(session: DemoSession, taken: socket.socket) -> BaseWSGIServer:
    """Make the server on a socket of ``listen``; its ``serve_forever`` runs it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # not a line per request
    host, port = taken.getsockname()[:2]
    return make_server(host, port, make_app(session, is_local(host)), threaded=True,
                       fd=taken.fileno())
