# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How git on the host is let in: the options that every module which fetches has."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  github_app:
    description:
      - A GitHub App whose installation token is used, minted with a key that only root can read. It wins over the token
        in O(env_file), which may name the App as well.
    type: dict
    suboptions:
      id:
        description: Id or client id of the App.
        type: str
      installation_id:
        description: Id of its installation.
        type: str
      private_key_file:
        description: Its private key on the host, in PEM.
        type: path
      api_url:
        description: Base URL of the REST API.
        type: str
        default: https://api.github.com
"""
