"""captionapp: describes pictures with BLIP and learns from the people who correct it."""
