#!/bin/sh
# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
# What a canary left that must not be there, and whether the timer runs. Then the host is ready for the next case.
systemctl is-active hyrule-engineering-loop.timer
ls /opt/engineering-loop/receipts
find /run -maxdepth 1 -name 'loop-canary*'
systemctl stop hyrule-engineering-loop.service
systemctl reset-failed hyrule-engineering-loop.service 2>/dev/null || true
