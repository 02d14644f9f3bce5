# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
vault {
  address = "{{ vault_agent_address }}"
}

template {
  source      = "/etc/vault-agent/{{ instance }}/template.ctmpl"
  destination = "{{ destination }}"
  perms       = "{{ perms }}"
  user        = "root"
  group       = "{{ group }}"
}
