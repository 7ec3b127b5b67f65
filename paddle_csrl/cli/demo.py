"""Open a local web page to play with a finished run: look at pictures, add classes by name.

The page shows the run's validation images and those that you upload, the class of every pixel,
and the classes to show or hide. A class typed there, such as `zebra`, or `name=word` where the
word vectors know it by another word, is added as tools/add_class.py does: the generator makes
features for it and the last layer is fitted anew. The run itself stays as it is.

The server answers this machine alone. With --host 0.0.0.0 everyone who reaches the machine can
use the page; there is no password.

examples:
  python tools/demo.py --run output/demo
  python tools/demo.py --run output/demo --save_dir output/demo_classes
  python tools/demo.py --run output/mine --opts val_dataset.dataset_root=DIR
  ssh -L 8041:127.0.0.1:8041 SERVER    # then the same page on this machine
"""

import argparse
import contextlib
import os
import sys
import threading
import webbrowser
from typing import Any

from paddleseg.utils import logger

from paddle_csrl import stopping
from paddle_csrl.cli import make_parser, options
from paddle_csrl.errors import UserError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__name__, __doc__)
    options.add_run(parser)
    options.add_opts(parser, "the run's config", "val_dataset.dataset_root=DIR")
    parser.add_argument("--save_dir", metavar="DIR",
                        help="keep a run folder per change of the classes there, for "
                             "tools/predict.py --run DIR/1 (default: none is kept)")
    parser.add_argument("--num_images", type=int, default=60, metavar="N",
                        help="validation images offered (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1",
                        help="address to answer on (default: %(default)s, this machine alone)")
    parser.add_argument("--port", type=int, default=8041,
                        help="0 takes any that is free (default: %(default)s)")
    parser.add_argument("--open_browser", action=argparse.BooleanOptionalAction,
                        default=_has_desktop(),
                        help="open the page in the browser (default: where there is a desktop)")
    options.add_device(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run until it is interrupted, and return ``url``, where the page was."""
    args = parse_args(argv)
    if args.num_images < 0:
        raise UserError(f"--num_images {args.num_images}: give a number from 0")
    try:
        import flask  # noqa: F401
    except ImportError:
        raise UserError("the page needs the package flask: pip install '.[demo]'") from None
    from paddle_csrl.demo import server
    from paddle_csrl.demo.session import DemoSession

    with contextlib.ExitStack() as stack:
        taken = stack.enter_context(server.listen(args.host, args.port))
        session = DemoSession(args.run, args.save_dir, args.opts, args.device, args.num_images)
        stack.callback(session.close)
        page = server.make_page_server(session, taken)
        stack.callback(page.server_close)
        url = _url(*taken.getsockname()[:2])
        if not server.is_local(args.host):
            logger.warning(f"--host {args.host}: everyone who reaches this machine can use the "
                           f"page; there is no password")
        print(f"the page is at {url} (Ctrl+C ends it)", flush=True)
        if args.open_browser:
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt, stopping.Stopped):
            page.serve_forever()
    return {"url": url}


def _url(host: str, port: int) -> str:
    if host in ("0.0.0.0", "::"):  # any address of this machine, so one that works here
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _has_desktop() -> bool:
    return sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
