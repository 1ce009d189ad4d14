"""What moto 5.2.1 lacks of the APIs that i2kit uses; each module's `close()` patches its part."""
