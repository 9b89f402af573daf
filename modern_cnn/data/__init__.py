"""Images from files to the compiled step: `sources` loads a set, a `spec.Feed` batches it, `augment` changes it."""
