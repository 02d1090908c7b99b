<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Test\Unit;

use PHPUnit\Framework\TestCase;
use ReflectionClass;
use ReflectionMethod;

class DeclarationsTest extends TestCase
{
    public function testEveryClassThatTheXmlNamesIsThere(): void
    {
        $named = [];
        foreach ($this->files('xml') as $file) {
            preg_match_all('/Tocsin\\\\BreachNotification\\\\[A-Za-z\\\\]+/', (string)file_get_contents($file), $found);
            $named = array_merge($named, $found[0]);
        }
        self::assertGreaterThan(20, count($named));
        foreach (array_unique($named) as $class) {
            $class = preg_replace('/\\\\Proxy\z/', '', $class);
            $path = $this->module() . '/' . str_replace('\\', '/', substr($class, strlen('Tocsin\\BreachNotification\\'))) . '.php';
            self::assertFileExists($path, $class);
        }
    }

    /**
     * Magento reads the types of its web API from these comments; one that is missing fails every call of the service.
     */
    public function testEveryServiceSaysItsTypesInItsComments(): void
    {
        $checked = 0;
        foreach (glob($this->module() . '/Api/{,Data/}*Interface.php', GLOB_BRACE) as $file) {
            $class = 'Tocsin\\BreachNotification\\' . str_replace(
                '/',
                '\\',
                substr($file, strlen($this->module()) + 1, -strlen('.php'))
            );
            foreach ((new ReflectionClass($class))->getMethods(ReflectionMethod::IS_PUBLIC) as $method) {
                $comment = (string)$method->getDocComment();
                self::assertMatchesRegularExpression('/@return \S+/', $comment, "$class::{$method->getName()}");
                self::assertSame(
                    $method->getNumberOfParameters(),
                    preg_match_all('/@param \S+ \$\w+/', $comment),
                    "$class::{$method->getName()}"
                );
                $checked++;
            }
        }
        self::assertGreaterThan(50, $checked);
    }

    public function testEachRouteAndSettingHasARightThatIsThere(): void
    {
        $acl = (string)file_get_contents($this->module() . '/etc/acl.xml');
        foreach (['webapi', 'adminhtml/system'] as $name) {
            preg_match_all('/Tocsin_BreachNotification::\w+/', (string)file_get_contents("{$this->module()}/etc/$name.xml"), $found);
            self::assertNotSame([], $found[0]);
            foreach ($found[0] as $right) {
                self::assertStringContainsString("id=\"$right\"", $acl);
            }
        }
    }

    public function testEveryTableTakesEveryCharacter(): void
    {
        $schema = simplexml_load_file($this->module() . '/etc/db_schema.xml');
        self::assertCount(6, $schema->table);
        foreach ($schema->table as $table) {
            self::assertSame('utf8mb4', (string)$table['charset'], (string)$table['name']);
        }
    }

    public function testTheSummarysTableIsNeverDroppedByMagento(): void
    {
        $whitelist = json_decode((string)file_get_contents($this->module() . '/etc/db_schema_whitelist.json'), true);
        self::assertIsArray($whitelist);
        self::assertArrayNotHasKey('tocsin_customer_summary', $whitelist);
    }

    /**
     * @return string[]
     */
    private function files(string $extension): array
    {
        return array_merge(
            glob("{$this->module()}/etc/*.$extension"),
            glob("{$this->module()}/etc/*/*.$extension"),
            glob("{$this->module()}/view/*/*/*.$extension")
        );
    }

    private function module(): string
    {
        return dirname(__DIR__, 2);
    }
}
