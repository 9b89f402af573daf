"""Images from files to the compiled step: `sources` loads a data set, a feed makes batches, `augment` changes them."""
