<?php

/**
 * pending.php MAGENTO: what setup:upgrade would still change, a line each: operation, table, column or key.
 */
declare(strict_types=1);

use Magento\Framework\App\Bootstrap;
use Magento\Framework\Setup\Declaration\Schema\Diff\SchemaDiff;
use Magento\Framework\Setup\Declaration\Schema\Dto\TableElementInterface;
use Magento\Framework\Setup\Declaration\Schema\SchemaConfigInterface;

require "$argv[1]/app/bootstrap.php";

$objects = Bootstrap::create(BP, $_SERVER)->getObjectManager();
$schema = $objects->get(SchemaConfigInterface::class);
foreach ($objects->get(SchemaDiff::class)->diff($schema->getDeclarationConfig(), $schema->getDbConfig())->getAll() as $operations) {
    foreach ($operations as $operation => $changes) {
        foreach ($changes as $change) {
            $element = $change->getNew() ?: $change->getOld();
            $table = $element instanceof TableElementInterface ? $element->getTable()->getName() : $element->getName();
            printf("%s %s %s\n", $operation, $table, $element->getName());
        }
    }
}
