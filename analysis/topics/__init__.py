"""One topic of the report in each module: computation, sentences, section, figures."""
