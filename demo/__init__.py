"""The demo: a simulated fleet of charging stations that sends real OTLP and knows exactly what must come out."""
