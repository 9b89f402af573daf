"""Images from files to the compiled step: `sources` finds and decodes, `batches` draws, `augment` prepares."""
