import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;

/** Says on port 8080 what it found of the machine; /fill takes memory until there is no more. */
public final class Service {
    public static void main(String[] arguments) throws IOException {
        HttpServer server = HttpServer.create(new InetSocketAddress(8080), 0);
        serve(server, "/", Service::facts);
        serve(server, "/fill", Service::fill);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("closing")));
        server.start();
        System.out.println("listening");
    }

    private interface Page {
        String text();
    }

    private static void serve(HttpServer server, String path, Page page) {
        server.createContext(path, exchange -> {
            byte[] body = page.text().getBytes(StandardCharsets.UTF_8);
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
    }

    private static String facts() {
        Runtime runtime = Runtime.getRuntime();
        return "java " + Runtime.version().feature() + " heap " + (runtime.maxMemory() >> 20) + " processors "
            + runtime.availableProcessors() + " user " + System.getProperty("user.name") + "\n";
    }

    private static String fill() {
        List<byte[]> taken = new ArrayList<>();
        try {
            while (true) {
                taken.add(new byte[1 << 20]);
            }
        } catch (OutOfMemoryError error) {
            int count = taken.size();
            taken.clear();
            return error.getMessage() + " after " + count + "\n";
        }
    }
}
