# SPDX-License-Identifier: Apache-2.0
"""What every model here shares: checked loading, saving, cards."""
