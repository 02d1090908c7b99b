"""An HTTP server that answers what it has begun before it closes. For listeners whose answers matter to the sender; metrics
do without.
"""

from http.server import ThreadingHTTPServer


class DrainingServer(ThreadingHTTPServer):
    """`server_close` waits for requests in flight; each must be bounded by its handler's `timeout`."""

    daemon_threads = False
    block_on_close = True
