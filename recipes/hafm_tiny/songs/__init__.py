# SPDX-License-Identifier: Apache-2.0
"""Songs to train on: a singer, a band, and their rendering."""
