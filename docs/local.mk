EXTRA_DIST += docs/build.md
