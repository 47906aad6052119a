"""Security and caching headers of every answer."""

from __future__ import annotations

from flask import Flask, Response, request

from captionapp.settings import Settings

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",  # blob: previews before sending
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)

SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: over HTTPS the CSRF check wants the referrer of our own pages.
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

#: Pages that say nothing about anybody's pictures; everything else stays out of search engines.
PUBLIC_ENDPOINTS = {"upload.form", "about.show", "static"}


def init_app(app: Flask, settings: Settings) -> None:
    """Adds the headers; HSTS only where the site is served over HTTPS."""

    def harden(response: Response) -> Response:
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        if settings.https:
            response.headers.setdefault("Strict-Transport-Security", "max-age=31536000")
        if request.endpoint not in PUBLIC_ENDPOINTS:
            response.headers.setdefault("X-Robots-Tag", "noindex")
        if request.endpoint != "static":  # pages carry a CSRF token and private pictures
            response.headers.setdefault("Cache-Control", "no-store")
        elif response.status_code < 400 and not app.debug:  # a changed file has another address
            response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        else:
            response.headers["Cache-Control"] = "no-cache"
        return response

    app.after_request(harden)
