# SPDX-License-Identifier: Apache-2.0
"""Accompaniments for many vocals: a folder or a Parquet file in, a folder out, by several workers or machines.

Behind the path of the data: `vocals` finds what is to be accompanied, `plan` decides once which of it go together,
`accompanying` is what a worker does, and `run` has it done by the engines of `jobs`.
"""
