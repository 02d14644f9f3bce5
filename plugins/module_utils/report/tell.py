# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""``loop tell``: look at the host once, write its metrics, and send what was not told yet. Run by a unit of its own.

A cycle's end, an apply, a pause and a timer start it; none of them waits for it, and nothing here can fail one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from ..base.errors import LoopError
from ..base.files import flocked
from ..base.journal import say
from ..host import secrets_file, settings, targets, telling
from ..host.settings import Settings
from ..host.targets import Target
from ..proof import rollout_ledger
from . import metrics, notices, outbox, send, status

Json: TypeAlias = dict[str, Any]

METRICS_DIR = "/var/lib/prometheus/node-exporter"


def main(config_path: str = settings.DEFAULT_PATH) -> int:
    """0 where all that was to be written and sent was, or waits; 1 where something is wrong with this host."""
    config = _config(config_path)
    if not os.path.isdir(config.install_dir):
        say("nothing is deployed on this host: there is nothing to tell\n")
        return 0
    wrong = []
    with flocked(f"{config.install_dir}/{telling.TOLD_LOCK}"):
        looked = status.of_host(config_path)
        try:
            for line in tell(config, looked):
                say(f"{line}\n")
        except LoopError as error:
            wrong.append(f"nobody is told: {error}")
        try:
            write_metrics(config, looked)
        except LoopError as error:
            wrong.append(f"no metrics are written: {error}")
    for line in wrong:
        say(f"{line}\n")
    return int(bool(wrong))


def _config(config_path: str) -> Settings:
    """The settings; of a host whose settings are broken, which is worth telling, the usual places."""
    try:
        return settings.load(config_path, keys=settings.LASTING)
    except LoopError:
        usual = {"install_dir": "/opt/engineering-loop", "lib_dir": "/usr/local/lib/engineering-loop"}
        return Settings(usual, config_dir=os.path.dirname(config_path), metrics_dir=METRICS_DIR, env_file="")


def tell(config: Settings, looked: Json) -> list[str]:
    """Send what is new or waits; lines for the journal."""
    wanted = targets.read(config)
    memory, anew = outbox.load(config)
    now = time.time()
    new = notices.derive(looked, memory, _rollbacks(config), name_of(config), now)
    outbox.enqueue(memory, new, wanted, now)
    messages = outbox.due(memory, now, int(config.get("notify_per_hour", outbox.PER_HOUR)))
    outbox.save(config, memory)  # before it is sent: who is killed meanwhile sends it again
    said = [f"told anew: {anew}"] if anew else []
    if messages:
        answers = send.deliver(config.lib_dir, wanted, messages, network(config))
        said += outbox.settle(memory, messages, answers, time.time())
        outbox.save(config, memory)
    return said


def name_of(config: Settings) -> str:
    """What the inventory calls this host: it stands in the commands that an operator types."""
    return str(config.get("inventory_name") or os.uname().nodename)


def _rollbacks(config: Settings) -> list[Json]:
    """The returns that the ledger knows; none where it cannot be read, which the status tells."""
    try:
        history = rollout_ledger.read(config.install_dir).history
    except LoopError:
        return []
    return [asdict(event) for event in history if event.why in rollout_ledger.BACK]


def network(config: Settings) -> dict[str, str]:
    """How the network is reached, as the file with the secrets has it; nothing where that cannot be read."""
    try:
        return secrets_file.network(secrets_file.load(str(config.env_file), ()))
    except LoopError:
        return {}


def write_metrics(config: Settings, looked: Json) -> bool:
    """Write the textfile, where its directory is there; whether it was written."""
    directory = str(config.get("metrics_dir", ""))
    if not directory or not os.path.isdir(directory):
        return False
    metrics.write(directory, looked, outbox.of_host(config), time.time())
    return True


def try_out(config: Settings, host: str, wanted: Sequence[Target]) -> list[Json]:
    """Send one test notice to each target now, past queue and limits: ``{target, where, taken, why}`` of each."""
    body = f"This is a test of the notifications of the engineering loop on {notices.harmless(host, 40)}."
    message = {"kind": notices.INFO, "title": f"{notices.harmless(host, 40)}: test notice", "body": body}
    answers = send.deliver(config.lib_dir, wanted, {one.id: [message] for one in wanted}, network(config))
    return [
        {
            "target": one.shown, "where": one.where,
            "taken": not answers[one.id].why, "why": answers[one.id].why,
        }
        for one in wanted
    ]  # fmt: skip
