"""``orchestrator serve``: serve a package on this machine until Ctrl-C or SIGTERM.

A thin wrapper over what ``serve run serving.app:build`` does, that checks everything first: the
settings, the package, the keys, the port, the CPUs. For a cluster, use ``serve deploy``.
"""

import argparse
import json
import os
import shlex
import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from orchestrator.config import ClusterSection, validate_config
from orchestrator.errors import ConfigError, InputError, Problem

if TYPE_CHECKING:
    from serving.ingress import Ingress
    from serving.serve_file import Plan

EXAMPLE_TEXT: Final = "Return the sum of the elements of an array."


def register(subparsers: Any) -> None:
    """Add the ``serve`` verb."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "serve",
        help="package → HTTP (wraps `serve run serving.app:build`)",
        description="Serve a package on this machine; Ctrl-C stops it cleanly. `--config` takes a "
        "file of serving/configs/, the same that `serve deploy` takes.",
    )
    parser.add_argument("-c", "--config", help="Serve config file with one application")
    parser.add_argument("-m", "--model", help="package: NAME, NAME@ALIAS or NAME/v0001")
    parser.add_argument("--zoo", help="folder or URL of the zoo")
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="HTTP port (default 8000)")
    parser.add_argument("--address", help="Ray to use; default RAY_ADDRESS, else a private one")
    parser.add_argument(
        "--ingress",
        choices=("haproxy", "python"),
        help="what listens; default: Ray's HAProxy where it runs, else its Python proxy",
    )
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="change a setting")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="check everything, start nothing")
    action.add_argument(
        "--new-key",
        metavar="NAME[:SCOPES]",
        help="make an API key, print its file line; SCOPES, separated by commas, of a key that may "
        "not do everything: read, embed, predict, generate",
    )
    parser.set_defaults(func=_main)


def _main(options: argparse.Namespace) -> int:
    if options.new_key is not None:
        return _new_key(options.new_key)
    plan = _plan(options)
    if options.check:
        sys.stdout.write(describe(plan, options.address, options.ingress) + "\n")
        return 0
    return _serve(plan, options.address, options.ingress)


def _plan(options: argparse.Namespace) -> "Plan":
    from dataclasses import replace

    from serving.config import ServingConfig
    from serving.serve_file import Plan, check_plan, read_plan

    named = [("model", options.model), ("zoo", options.zoo)]
    overrides = [f"{key}={json.dumps(value)}" for key, value in named if value is not None]
    overrides += options.overrides
    if options.config is not None:
        plan = read_plan(options.config, overrides)
    elif options.model is None:
        message = "is missing. Give --model NAME[@ALIAS], or --config serving/configs/FILE.yaml."
        raise ConfigError("orchestrator serve", [Problem("model", message)])
    else:
        plan = Plan(validate_config(ServingConfig, {}, "command line", overrides))
    given = {"host": options.host, "port": options.port}
    plan = replace(plan, **{key: value for key, value in given.items() if value is not None})
    check_plan(plan)
    return plan


def describe(plan: "Plan", address: str | None, wanted: "Ingress | None" = None) -> str:
    """Return what would be served, after checking all that can be checked without starting.

    Args:
        plan: What to serve and where.
        address: Ray to use; None takes RAY_ADDRESS, else starts one.
        wanted: What listens; None: HAProxy where it runs.

    Raises:
        InputError: The package, the key file, the port or the ingress is not usable.
        IntegrityError: The package is damaged.
    """
    from serving.preflight import answers_as_serve, require_free_port, resolve

    package = resolve(plan.config)
    private = _starts_ray(address)
    if private or not answers_as_serve(plan.host, plan.port):
        require_free_port(plan.host, plan.port)
    scale, config = plan.config.autoscaling, plan.config
    rows = {
        "package": f"{package.ref} ({package.kind})",
        "address": plan.url,
        "ingress": _ingress(address, wanted) or "that of the cluster",
        "keys": config.api_keys_file or "none (this machine only)",
        "replicas": f"{scale.min_replicas} to {scale.max_replicas}, {config.cpus_per_replica:g} CPU"
        f" and {config.gpus_per_replica:g} GPU each",
        "limits": f"{config.limits.max_client_batch_size} inputs and "
        f"{config.limits.max_body_bytes} bytes per request, {config.limits.request_timeout_s:g} s",
    }
    return "\n".join(f"{name:9} {value}" for name, value in rows.items())


def _starts_ray(address: str | None) -> bool:
    return address is None and "RAY_ADDRESS" not in os.environ


def _ingress(address: str | None, wanted: "Ingress | None") -> "Ingress | None":
    """Return what listens; None: a running cluster decided that when it started.

    Raises:
        InputError: It cannot be had.
    """
    from serving.ingress import chosen

    if _starts_ray(address):
        return chosen(wanted)
    if wanted is not None:
        raise InputError(
            f"--ingress {wanted}: the environment in which a cluster was started decides that. "
            "Leave it out, or leave --address and RAY_ADDRESS out to start a Ray here."
        )
    return None


def _serve(plan: "Plan", address: str | None, wanted: "Ingress | None") -> int:
    describe(plan, address, wanted)
    from orchestrator.cluster.session import session_for
    from serving import local
    from serving.ingress import ingress_environment

    cluster = ClusterSection(
        address=address,
        workers=max(1, plan.config.autoscaling.min_replicas),
        cpus_per_worker=plan.config.cpus_per_replica,
        gpus_per_worker=plan.config.gpus_per_replica,
    )
    try:
        with ExitStack() as stack:
            ingress = _ingress(address, wanted)
            if ingress is not None:
                stack.enter_context(ingress_environment(ingress))
            stack.enter_context(session_for(cluster, name="replicas"))
            served = local.run_plan(plan)
            stack.callback(local.stop, served)
            _announce(served, plan)
            threading.Event().wait()
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
    return 0


def _announce(served: Any, plan: "Plan") -> None:
    body = json.dumps({"inputs": [EXAMPLE_TEXT]})
    key = " -H 'Authorization: Bearer KEY'" if plan.config.api_keys_file else ""
    sys.stdout.write(
        f"{served.model} answers at {served.url} (documentation: {served.url}/docs)\n"
        f"  curl {served.url}/predict -H 'Content-Type: application/json'{key} "
        f"-d {shlex.quote(body)}\n"
        "Ctrl-C stops it.\n"
    )
    sys.stdout.flush()


def _new_key(name: str) -> int:
    from serving.guard.keys import new_key

    name, _, scopes = name.partition(":")
    secret, line = new_key(name, scopes)
    sys.stdout.write(line + "\n")
    sys.stderr.write(f"key for {name}, shown once: {secret}\n")
    return 0
