<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Setup\Patch\Data;

use Magento\Customer\Model\Customer;
use Magento\Customer\Setup\CustomerSetupFactory;
use Magento\Eav\Model\Config as EavConfig;
use Magento\Eav\Model\Entity\Attribute\Source\Boolean;
use Magento\Eav\Model\Entity\Attribute\Source\Table;
use Magento\Framework\Setup\ModuleDataSetupInterface;
use Magento\Framework\Setup\Patch\DataPatchInterface;
use Magento\Framework\Setup\Patch\PatchRevertableInterface;
use Tocsin\BreachNotification\Model\CheckRecord;
use Tocsin\BreachNotification\Model\ResourceModel\SummaryTable;

/**
 * Adds customer attributes that sum up what AI data is held about a customer, for people in the admin.
 *
 * Their values lie in a table of our own, not in customer_entity_<type>: capture watches those, and mview ignores by
 * column, not by attribute. They are in no attribute set: Magento loads the attributes of a customer's set with one
 * statement for each value table, with every load, several times a save; those of none it reads only for the admin's form.
 *
 * As system attributes that no form of the storefront uses they are in no REST representation
 * of a customer, and Magento's customer services neither read nor write them.
 *
 * Their source models are Magento's own, and they have no backend model: an attribute that names a class of ours would
 * break every customer page of a shop from which the module's files were taken away before tocsin:uninstall.
 */
class AddAiDataSummaryAttributes implements DataPatchInterface, PatchRevertableInterface
{
    private ModuleDataSetupInterface $setup;
    private CustomerSetupFactory $customerSetupFactory;
    private EavConfig $eavConfig;

    public function __construct(
        ModuleDataSetupInterface $setup,
        CustomerSetupFactory $customerSetupFactory,
        EavConfig $eavConfig
    ) {
        $this->setup = $setup;
        $this->customerSetupFactory = $customerSetupFactory;
        $this->eavConfig = $eavConfig;
    }

    /**
     * @inheritDoc
     */
    public function apply()
    {
        $customerSetup = $this->customerSetupFactory->create(['setup' => $this->setup]);
        $attributes = [
            SummaryTable::HELD => ['AI Data Held', 'select', Boolean::class, []],
            SummaryTable::MODELS => ['AI Models', 'textarea', null, []],
            SummaryTable::HIGHEST_SENSITIVITY => [
                'Highest Sensitivity of AI Data',
                'select',
                Table::class,
                ['option' => ['values' => array_map('ucfirst', CheckRecord::SENSITIVITIES)]],
            ],
        ];
        $position = 900;
        foreach ($attributes as $code => [$label, $input, $source, $options]) {
            $customerSetup->addAttribute(Customer::ENTITY, $code, [
                'type' => 'text',
                'table' => $this->setup->getTable(SummaryTable::TABLE),
                'label' => $label,
                'input' => $input,
                'source' => $source,
                'required' => false,
                'visible' => true,
                'system' => true,
                'user_defined' => false,
                'position' => $position,
                'sort_order' => $position++,
            ] + $options);
            $attribute = $this->eavConfig->getAttribute(Customer::ENTITY, $code);
            $attribute->setData('used_in_forms', ['adminhtml_customer']);
            $attribute->getResource()->save($attribute);
            $this->setup->getConnection()->delete(
                $this->setup->getTable('eav_entity_attribute'),
                ['attribute_id = ?' => (int)$attribute->getId()]
            );
        }
        return $this;
    }

    /**
     * @inheritDoc
     */
    public function revert()
    {
        $customerSetup = $this->customerSetupFactory->create(['setup' => $this->setup]);
        foreach (SummaryTable::ATTRIBUTES as $code) {
            $customerSetup->removeAttribute(Customer::ENTITY, $code);
        }
    }

    /**
     * @inheritDoc
     */
    public static function getDependencies()
    {
        return [];
    }

    /**
     * @inheritDoc
     */
    public function getAliases()
    {
        return [];
    }
}
