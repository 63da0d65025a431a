# SPDX-License-Identifier: Apache-2.0
"""From the published checkpoints of HAFM's authors to a model of this package; `convert_checkpoint.py` is its command.

`download` gets the files and compares their checksums, `reading` and `kmeans` read them without running code,
`tokenizer` finds the HuBERT, `mapping` finds which tensor is which weight, `layout` says what shapes leave open and
folds a choice into our weights, `evidence` makes the choices on real pairs, and `writing` writes the model.
"""
