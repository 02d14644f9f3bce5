# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
#
# vault agent -config=/etc/vault-agent/engineering-loop.hcl, as root: what only root can have written counts.
vault {
  address = "https://vault.example.net:8200"
}

auto_auth {
  method "approle" {
    config = {
      role_id_file_path   = "/etc/vault-agent/role-id"
      secret_id_file_path = "/etc/vault-agent/secret-id"
    }
  }
}

template {
  source               = "/etc/vault-agent/engineering-loop.env.ctmpl"
  destination          = "/etc/engineering-loop/env" # engineering_loop_env_file
  perms                = "0600"
  error_on_missing_key = true
}
