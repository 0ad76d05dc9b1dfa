"""Messages, guards and the strategy: the only room besides the apps that knows Flower."""
