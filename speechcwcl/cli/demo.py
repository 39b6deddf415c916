"""A page in the browser: record or upload speech, type labels, see the ranked answer.

Uploads go to a private temporary folder and are deleted within two minutes; nothing is loaded
from the network. Name two models to see them side by side. Other programs may ask the endpoint
`/classify` through gradio_client.

Example:
    speechcwcl demo --model egs/mini/cwcl1/exp/cwcl/model --model egs/mini/cwcl1/exp/clip/model
"""

from __future__ import annotations

import argparse

from speechcwcl.assets import DEFAULT_MODEL
from speechcwcl.errors import require


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from speechcwcl.apps.demo.ask import Limits

    parser.add_argument(
        "--model",
        action="append",
        metavar="FOLDER",
        help="a model folder or hub id; give it twice to compare two models; left out: "
        f"{DEFAULT_MODEL}, which comes with the package",
    )
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, default=7860, help="port of the page")
    parser.add_argument(
        "--share", action="store_true", help="also open a public address through gradio"
    )
    parser.add_argument("--device", default="cpu", help="where the models run: cpu, cuda, cuda:1")
    limits = Limits()
    parser.add_argument(
        "--max_seconds", type=float, default=limits.seconds, help="longest recording allowed"
    )
    parser.add_argument(
        "--max_megabytes", type=float, default=limits.megabytes, help="largest file allowed"
    )
    parser.add_argument("--max_labels", type=int, default=limits.labels, help="most labels allowed")
    parser.add_argument(
        "--unknown_below",
        type=float,
        default=0.0,
        help="answer `unknown` where no label reaches this cosine; 0 always answers",
    )


def run(args: argparse.Namespace) -> int:
    from speechcwcl.apps.demo.ask import Limits
    from speechcwcl.apps.demo.serve import check_port, import_page, private_folder, serve

    limits = Limits(args.max_seconds, args.max_megabytes, args.max_labels)
    require(
        0 <= args.unknown_below <= 1, f"--unknown_below {args.unknown_below}: not between 0 and 1"
    )
    check_port(args.host, args.port)
    with private_folder() as folder:
        page = import_page(folder)
        from speechcwcl.apps.demo.answer import open_judges  # late: torch, after the quick checks

        judges = open_judges(args.model or [DEFAULT_MODEL], args.device)
        for judge in judges:
            judge.warm_up()
        serve(
            judges,
            limits,
            page=page,
            folder=folder,
            host=args.host,
            port=args.port,
            share=args.share,
            unknown_below=args.unknown_below,
        )
    return 0
