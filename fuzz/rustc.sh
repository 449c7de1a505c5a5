#!/bin/sh
# rustc for our own crates with counters at every branch, which libFuzzer reads. Stable rustc can do it; what
# cannot be had without nightly is AddressSanitizer, and there is no unsafe code of ours for it to watch. A little
# faster than a plain debug build, and as watchful.
exec "$@" -Copt-level=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares
