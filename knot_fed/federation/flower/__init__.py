"""Every place that reaches into what Flower does not document."""
