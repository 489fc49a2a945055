"""Where candles come from: the simulator, the exchange, files."""
